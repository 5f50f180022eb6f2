"""Optimizer wrappers that keep infinity and NaN out of the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce, get_dist_info
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.models.losses.base import upcast

#: So many steps in a row may be left out; more, and nothing is learned. A
#: gradient scaler that starts at 2**24 has halved itself away long before.
MAX_IN_A_ROW = 40
#: Under this name the message hub counts the steps that were left out.
SKIPPED = 'skipped_steps'


class NonFiniteError(ValueError):
    """A loss or a gradient is infinite or NaN."""


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` that checks loss and gradients before each step.

    A step whose loss or total gradient norm is infinite or NaN is not taken,
    on any process. The decision falls when the optimizer would step, after
    the last of the accumulated batches. It costs one gradient norm, and a
    wait for the GPU. Finite steps are those of ``OptimWrapper`` bit by bit.

    Args:
        on_nonfinite (str): ``'stop'`` ends the run with a message: the step,
            the terms of the loss or the parameters, and the images.
            ``'skip'`` leaves the step out with a warning, restores buffers,
            and counts it in the scalar ``train/skipped_steps``; more than 40
            in a row stop the run all the same. Defaults to ``'stop'``.
        **kwargs: Those of MMEngine's ``OptimWrapper``.

    Raises:
        ValueError: ``on_nonfinite`` is neither.
        NonFiniteError: In ``step``; a ``ValueError``.
    """

    def __init__(self, on_nonfinite: str = 'stop', **kwargs: Any) -> None:
        if on_nonfinite not in ('stop', 'skip'):
            raise ValueError(
                f"on_nonfinite must be 'stop' or 'skip', got {on_nonfinite!r}"
            )
        super().__init__(**kwargs)
        self.on_nonfinite = on_nonfinite
        self._in_a_row = 0
        self._clear()

    def _clear(self) -> None:
        """Drops the records of the last step."""
        self._module: nn.Module | None = None
        self._buffers: list[Tensor] = []
        # Samples and outputs of forward passes, then the loss made of them.
        self._passes: list[tuple[Any, Any]] = []
        self._batches: list[tuple[Tensor, list[tuple[Any, Any]]]] = []

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Records the forward passes within; otherwise as the parent's."""
        module = unwrap_model(model)
        if self._module is None and self.on_nonfinite == 'skip':
            # The first forward pass changes them.
            self._buffers = [b.detach().clone() for b in module.buffers()]
        self._module = module

        def record(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            # References alone: nothing is copied, no GPU is waited for.
            inputs = [v for v in (*args, *kwargs.values()) if not _images(v)]
            self._passes.append((inputs, output))

        # For this pass only: a hook that stays would be saved with the model.
        handle = module.register_forward_hook(record, with_kwargs=True)
        try:
            with super().optim_context(model):
                yield
        finally:
            handle.remove()

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Records the loss; otherwise as the parent's."""
        self._batches.append((loss.detach(), self._passes))
        self._passes = []
        super().update_params(loss, *args, **kwargs)

    @torch.compiler.disable  # Which cannot trace how processes agree.
    def step(self, **kwargs: Any) -> None:
        """Checks, clips and steps.

        Raises:
            NonFiniteError: The loss or the gradients are not finite.
        """
        try:
            groups = self.optimizer.param_groups
            parameters = [p for group in groups for p in group['params']]
            grads = [p.grad for p in parameters if p.grad is not None]
            norm = get_total_norm(grads)
            bad_loss, bad_norm, own = self._agree(norm)
            self._in_a_row = self._in_a_row + 1 if bad_loss or bad_norm else 0
            # A gradient scaler leaves out steps that overflow, and says so.
            scaler: Any = getattr(self, 'loss_scaler', None)
            rescales = scaler is not None and scaler.is_enabled()
            if self._in_a_row > MAX_IN_A_ROW:
                self._stop(norm, f'for {self._in_a_row} steps in a row ')
            elif not bad_loss and (not bad_norm or rescales):
                scale = scaler.get_scale() if rescales else 1.0
                # The quotient by another than a power of two is rounded.
                exact = math.frexp(scale)[0] == 0.5
                self._step(own / scale if exact else math.inf, **kwargs)
            elif self.on_nonfinite == 'stop':
                self._stop(norm)
            else:
                self._skip(norm)
        finally:
            self._clear()

    def _step(self, norm: float, **kwargs: Any) -> None:
        """Steps as the parent, which would multiply small gradients by 1."""
        given: Any = self.clip_grad_kwargs  # type: ignore[has-type]
        options = {'norm_type': 2, **(given or {})}
        limit = options.get('max_norm', 0)
        plain = options == {'norm_type': 2, 'max_norm': limit}
        # What torch.nn.utils.clip_grad_norm_ adds to a norm.
        if plain and norm + 1e-6 <= limit:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)
            self.clip_grad_kwargs = None
        try:
            super().step(**kwargs)
        finally:
            self.clip_grad_kwargs = given

    def _agree(self, norm: Tensor) -> tuple[bool, bool, float]:
        """Bad loss or norm of any process, own norm; all must call it."""
        losses = [loss.to(norm) for loss, _ in self._batches] or [norm]
        fine = [torch.stack(x).isfinite().all() for x in (losses, [norm])]
        flags = torch.stack(fine).logical_not().to(norm.dtype)
        all_reduce(flags, 'max')
        # One wait for the GPU.
        bad_loss, bad_norm, own = torch.stack([*flags, norm]).tolist()
        return bool(bad_loss), bool(bad_norm), own

    def _skip(self, norm: Tensor) -> None:
        text = self._describe(norm)
        buffers = self._module.buffers() if self._module else ()
        for buffer, before in zip(buffers, self._buffers, strict=True):
            buffer.copy_(before)
        count = self.message_hub.runtime_info.get(SKIPPED, 0) + 1
        self.message_hub.update_info(SKIPPED, count)
        self.message_hub.update_scalar(f'train/{SKIPPED}', count)
        print_log(
            f'{text}\nThe step is left out. Left out so far: {count}',
            logger='current',
            level=logging.WARNING,
        )

    def _stop(self, norm: Tensor, since: str = '') -> NoReturn:
        raise NonFiniteError(
            f'{self._describe(norm, since)}\nTo leave such steps out: '
            '--cfg-options optim_wrapper.on_nonfinite=skip'
        )

    def _describe(self, norm: Tensor, since: str = '') -> str:
        """Describes what is not finite; all processes must call it."""
        rank, world_size = get_dist_info()
        text = f'on process {rank} ' if world_size > 1 else ''
        bad = [b for b in self._batches if not b[0].isfinite().all()]
        passes = [p for _, recorded in bad or self._batches for p in recorded]
        if bad:
            terms = _bad_terms([output for _, output in passes])
            text += f'the loss is not finite ({terms or "total"})'
        else:
            text += 'the loss is finite, but the norm of the gradients is '
            text += f'{norm}{_bad_parameters(self._module)}'
        paths = [path for inputs, _ in passes for path in _paths(inputs)]
        images = paths or ['  unknown, the samples carry no img_path']
        text = '\n'.join([f'{text}. Images of the batch:', *images])
        own = bool(bad), text
        found = all_gather_object(own) if world_size > 1 else [own]
        # Gradients are the same everywhere: where every loss is finite, any
        # process may have caused them.
        faulty = [text for bad, text in found if bad]
        texts = faulty or [text for _, text in found]
        return f'step {self._inner_count}: {since}' + '\n'.join(texts)


class _AnyDeviceAmpOptimWrapper(AmpOptimWrapper):
    """An ``AmpOptimWrapper`` whose constructor takes a CPU, too."""

    def __init__(self, dtype: Any = None, **kwargs: Any) -> None:
        if amp_optimizer_wrapper.is_cuda_available() or get_device() != 'cpu':
            super().__init__(dtype=dtype, **kwargs)
            return
        if dtype not in ('bfloat16', torch.bfloat16):
            raise ValueError(
                'mixed precision on a CPU needs optim_wrapper.dtype=bfloat16, '
                f'got {dtype}'
            )
        for option in ('loss_scale', 'use_fsdp'):
            kwargs.pop(option, None)
        OptimWrapper.__init__(self, **kwargs)
        self.cast_dtype = torch.bfloat16
        # bfloat16 has float32's range.
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self._scale_update_param = None


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(GuardedOptimWrapper, _AnyDeviceAmpOptimWrapper):
    """An ``AmpOptimWrapper`` that checks loss and gradients.

    Gradients that overflow are no error while the gradient scaler works: it
    leaves the step out and lowers its scale. A loss that is not finite is
    one, and so are 40 overflows in a row. A step that is skipped leaves the
    scale as it is. On a CPU it works in bfloat16, without a scale. Losses of
    MMPretrain's heads see float32 logits: some overflow in half precision.

    Args:
        on_nonfinite (str): ``'stop'`` or ``'skip'``. Defaults to ``'stop'``.
        **kwargs: Those of MMEngine's ``AmpOptimWrapper``.

    Raises:
        ValueError: On a CPU, ``dtype`` is not bfloat16.
    """

    #: The losses of heads within the network, looked for at the first step.
    _losses: list[nn.Module] | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Hands float32 logits to the losses of heads within."""
        if self._losses is None:
            found = (getattr(m, 'loss_module', 0) for m in model.modules())
            self._losses = [x for x in found if isinstance(x, nn.Module)]
        with ExitStack() as stack:
            for loss in self._losses:
                handle = loss.register_forward_pre_hook(_widen)
                stack.callback(handle.remove)
            stack.enter_context(super().optim_context(model))
            yield


def _widen(_: nn.Module, args: tuple) -> tuple:
    return (upcast(args[0]), *args[1:])


def _images(value: Any) -> bool:  # Which need not outlive a backward pass.
    parts = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(part, Tensor) for part in parts)


def _bad_parameters(module: nn.Module | None) -> str:
    names = [
        name
        for name, parameter in (module.named_parameters() if module else ())
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return f' (parameters {", ".join(names[:3])}{more})' if names else ''


def _bad_terms(outputs: Sequence[Any]) -> str:
    terms: dict[str, float] = {}
    for output in outputs:
        for name, value in output.items() if isinstance(output, dict) else ():
            parts = value if isinstance(value, list) else [value]
            # MMEngine sums those of this name.
            if 'loss' in name and all(isinstance(p, Tensor) for p in parts):
                number = float(sum(p.detach().float().mean() for p in parts))
                if not math.isfinite(number):
                    terms.setdefault(name, number)
    return ', '.join(f'{name} = {value}' for name, value in terms.items())


def _paths(value: Any, stream: str = '') -> Iterator[str]:
    """Yields streams and paths of the samples within a model's inputs."""
    if isinstance(value, BaseDataElement):
        if 'img_path' in value:
            yield f'  {stream} {value.img_path}'
    elif isinstance(value, dict):
        for key, item in value.items():
            # {'data_samples': {'uniform': [...]}}: the innermost name.
            name = stream if key in ('data_samples', 'inputs') else str(key)
            yield from _paths(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item, stream)
