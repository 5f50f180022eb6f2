"""Fits a run to the device that it runs on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ltml_mm.datasets.two_stream import innermost_dataset

FORMATS = ('auto', 'channels_last', 'contiguous')
#: From so many pixels a side on, no network was slower in it on a CPU.
CPU_SIDE = 192
#: Values of float32 in the widest vector of a CPU.
VECTOR = 16


@HOOKS.register_module()
class DeviceHook(Hook):
    """Sets the memory layout of the network, and cuBLAS to be repeatable.

    With the channels last, convolutions and what follows them work on
    (N, H, W, C) in memory: ResNet-50 trains 1.5 to 1.8 times as fast in mixed
    precision on an H100, 1.1 to 1.3 times on a CPU. Names, shapes and, within
    rounding, values stay as they are; it holds in validation and test, too.

    ``randomness=dict(deterministic=True)`` needs the environment variable
    ``CUBLAS_WORKSPACE_CONFIG`` on a GPU, which is set where it is missing.
    SGD on a GPU takes PyTorch's fused step, which spares the host, unless
    its config sets ``fused`` or ``foreach``.

    Args:
        memory_format (str): ``'auto'``, the default: channels last where
            :func:`prefers_channels_last` says so;
            ``'channels_last'``: always; ``'contiguous'``: never.

    Raises:
        ValueError: ``memory_format`` is none of these, or it is
            ``'channels_last'``, or ``compile`` of the config is set, for a
            network that :func:`find_overrun` names.
    """

    # Ahead of EMAHook, which copies the network.
    priority = 'VERY_HIGH'

    def __init__(self, memory_format: str = 'auto') -> None:
        if memory_format not in FORMATS:
            raise ValueError(
                f'memory_format must be in {FORMATS}, got {memory_format!r}'
            )
        self.memory_format = memory_format

    def before_run(self, runner: Runner) -> None:
        """Acts before the weights are loaded and the first kernel runs."""
        if torch.are_deterministic_algorithms_enabled():
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        # From the config, so that a resumed run decides as the whole one.
        cfg = runner.cfg
        side = picture_side(cfg.get('train_dataloader'))
        side = side or picture_side(cfg.get('test_dataloader'))
        model = runner.model
        wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
        if wrapped and not hasattr(runner, 'wrap_model'):
            return  # FlexibleRunner cannot wrap it anew: the layout stays.
        arrange(model, self.memory_format, side)
        if wrapped:
            # It would read gradients in the layout that it has been built in.
            wrapper = cfg.get('model_wrapper_cfg')
            runner.model = runner.wrap_model(wrapper, model.module)

    def before_train(self, runner: Runner) -> None:
        """Acts after a resume, which brings flags and momenta of then."""
        how = str(runner.cfg.get('compile') or 'disable')
        if 'eager' not in how and 'disable' not in how:  # inductor's layout
            _refuse_overrun(runner.model, f'compile={how}')
        found: Any = runner.optim_wrapper
        for wrapper in getattr(found, 'optim_wrappers', {'': found}).values():
            fit_optimizer(wrapper.optimizer)


def fit_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Fits the step of an SGD to its device, its momenta to its weights.

    The fused step reads weights and momenta in the order of memory: on a CPU
    it is wrong without a word where their layouts differ (PyTorch 2.11). It
    takes a momentum of every weight or of none, so all begin at 0.
    """
    if type(optimizer) is not torch.optim.SGD:
        return
    skips = True
    chosen = {name: optimizer.defaults[name] for name in ('foreach', 'fused')}
    for group in optimizer.param_groups:
        group.update(chosen)
        if set(chosen.values()) == {None}:
            group['fused'] = all(w.is_cuda for w in group['params']) or None
        fills = group['fused'] and group['momentum'] and not group['dampening']
        skips &= bool(group['fused'] and (fills or not group['momentum']))
        for weight in group['params']:
            momentum = optimizer.state.get(weight, {}).get('momentum_buffer')
            if momentum is None and fills:
                momentum = torch.zeros_like(weight)
            if momentum is not None:
                moved = torch.empty_like(weight).copy_(momentum)
                optimizer.state[weight]['momentum_buffer'] = moved
    # A step that it leaves out by itself leaves new momenta as they come.
    optimizer._step_supports_amp_scaling = skips  # type: ignore[attr-defined]


def arrange(
    model: nn.Module, memory_format: str = 'auto', side: float = 0
) -> None:
    """Holds a network in the layout that is asked for; changes it in place.

    Args:
        model: A network on its device.
        memory_format: See :class:`DeviceHook`.
        side: Pixels a side of its pictures, 0 where that is not known.

    Raises:
        ValueError: See :class:`DeviceHook`.
    """
    if memory_format == 'contiguous':
        return
    if memory_format == 'auto' and not prefers_channels_last(model, side):
        return
    _refuse_overrun(model, "memory_format='channels_last'")
    # The weights decide; images follow at the first convolution.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def prefers_channels_last(model: nn.Module, side: float = 0) -> bool:
    """Whether the layout has been measured to be faster for such a network.

    On a GPU it has for ungrouped convolutions; a network with grouped or
    depthwise ones keeps its layout. On a CPU it has for convolutions of any
    kind, for large pictures. ``tools/benchmarks/step_time.py --layout`` tells.

    Args:
        model: A network on its device.
        side: See :func:`arrange`.
    """
    parameter = next(model.parameters(), None)
    groups = [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)]
    if parameter is not None and parameter.is_cuda:
        return bool(groups) and max(groups) == 1
    # A transformer has a single one.
    return len(groups) > 1 and side >= CPU_SIDE and not find_overrun(model)


def _refuse_overrun(model: nn.Module, setting: str) -> None:
    if overrun := find_overrun(model):
        raise ValueError(
            f'{setting} may crash on a CPU: {overrun} is a 1x1 convolution '
            f'with a stride and fewer than {VECTOR} input channels (oneDNN '
            'issue 6035); leave this setting out'
        )


def find_overrun(model: nn.Module) -> str:
    """Names a convolution that writes past its memory on a CPU, if any.

    With the channels last, the gradient of the weights of a 1x1 convolution
    with a stride and fewer input channels than a vector has (16 with AVX-512)
    writes past oneDNN's workspace (its issue 6035, PyTorch 2.11): a crash, or
    wrong gradients. On a GPU nothing is named.
    """
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d) or conv.weight.device.type != 'cpu':
            continue
        few = conv.in_channels // conv.groups < VECTOR
        if few and conv.kernel_size == (1, 1) and max(conv.stride) > 1:
            return name
    return ''


def layout_of(cfg: Mapping[str, Any]) -> str:
    """Returns the ``memory_format`` of a config, ``'auto'`` without one."""
    hook = (cfg.get('default_hooks') or {}).get('device') or {}
    return hook.get('memory_format', 'auto')


def picture_side(loader: Any) -> float:
    """Returns the last size that a pipeline gives its pictures.

    Args:
        loader: The config of a dataloader, or None.

    Returns:
        float: Pixels of the shorter side; 0 where no step tells.
    """
    dataset = innermost_dataset(loader or {})
    steps = dataset.get('pipeline') if isinstance(dataset, Mapping) else ()
    sizes = [
        step[key]
        for step in steps or ()
        for key in ('scale', 'crop_size')
        if isinstance(step, Mapping) and step.get(key)
    ]
    return float(np.min(sizes[-1])) if sizes else 0
