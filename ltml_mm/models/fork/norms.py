"""Batch normalisation that keeps the two streams of a step apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm


class StreamNorm:
    """Mixin of a batch norm that normalises each stream by itself.

    In training the input holds the streams one after the other along the
    batch axis, as :class:`CollaborativeTwoBranchClassifier` joins them. Each
    half is normalised with its own batch statistics, and the one shared set
    of running statistics is updated by the first half, then by the second.
    Evaluation, and a layer held in eval mode by ``norm_eval`` or
    ``frozen_stages``, are those of the class it extends.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the halves of the batch (2B, C, ...) apart in training.

        Raises:
            ValueError: The batch has an odd size in training.
        """
        layer: Any = self
        normalise = super().forward  # type: ignore[misc]
        if not layer.training:
            return normalise(x)
        if len(x) % 2:
            raise ValueError(
                "bn_streams='separate' needs both streams in each training "
                f'batch, got an odd batch of {len(x)}; train with a '
                "TwoStreamDataset or set bn_streams='joint'"
            )
        kind: Any = type(self).__mro__[2]
        plain = (
            kind.forward is _BatchNorm.forward and layer.track_running_stats
        )
        if torch.compiler.is_compiling() and plain:
            return _normalise_as_channels(layer, x)
        half = len(x) // 2
        return torch.cat([normalise(x[:half]), normalise(x[half:])])

    def extra_repr(self) -> str:
        """Names what the class's unchanged name does not tell."""
        return f'{super().extra_repr()}, streams=separate'  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made at run time, so pickle names the one it extends.
        return _restore, (type(self).__mro__[2],), self.__dict__


def _normalise_as_channels(layer: Any, x: Tensor) -> Tensor:
    """Normalises the halves in one call, each with channels of its own.

    Inductor (torch 2.11) gets the gradients of two calls wrong that update
    the same running statistics.
    """
    streams = x.unflatten(0, (2, -1)).transpose(0, 1).flatten(1, 2)
    both = x.new_zeros(2, 2 * x.shape[1], dtype=layer.running_mean.dtype)
    out = F.batch_norm(
        streams,
        both[0],
        both[1],
        weight=layer.weight.repeat(2) if layer.affine else None,
        bias=layer.bias.repeat(2) if layer.affine else None,
        training=True,
        momentum=1.0,  # leaves the statistics of the batch alone
        eps=layer.eps,
    )
    with torch.no_grad():
        for mean, var in zip(*both.unflatten(1, (2, -1)), strict=True):
            layer.num_batches_tracked += 1
            rate = layer.momentum or 1 / layer.num_batches_tracked
            layer.running_mean += rate * (mean - layer.running_mean)
            layer.running_var += rate * (var - layer.running_var)
    return out.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1)


def separate_stream_norms(module: nn.Module) -> nn.Module:
    """Makes every batch norm of a module normalise the streams apart.

    Changes the layers in place: names, parameters and state-dict keys stay.
    Calling it again converts what has become a plain batch norm since, for
    instance through MMEngine's ``sync_bn``, and nothing else. Batch norms are
    those of torch, timm and mmcv, synchronised ones included.
    """
    for layer in module.modules():
        if _is_batch_norm(layer) and not isinstance(layer, StreamNorm):
            cls: Any = type(layer)
            layer.__class__ = _stream_class(cls)
    return module


def _is_batch_norm(layer: nn.Module) -> bool:
    # mmcv's own SyncBatchNorm, in its full build only, is no _BatchNorm.
    return isinstance(layer, _BatchNorm) or (
        type(layer).__name__ == 'SyncBatchNorm'
    )


@cache
def _stream_class(base: Any) -> Any:
    # MMEngine's initialisers match a layer by the name of its class and of
    # its direct bases, so both read as they did before.
    bases = (StreamNorm, base, *base.__bases__)
    return type(base.__name__, bases, {'__module__': base.__module__})


def _restore(base: Any) -> Any:
    cls = _stream_class(base)
    return cls.__new__(cls)
