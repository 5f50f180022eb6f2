"""Fits a run to the device that it runs on."""

from __future__ import annotations

import os

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

#: What ``memory_format`` may be.
FORMATS = ('auto', 'channels_last', 'contiguous')


@HOOKS.register_module()
class DeviceHook(Hook):
    """Sets the memory layout of the network, and cuBLAS to be repeatable.

    With the channels last, convolutions and what follows them work on
    (N, H, W, C) in memory: ResNet-50 trains 1.5 to 1.8 times as fast in mixed
    precision on an H100. Shapes, names and, within rounding, values stay as
    they are. It holds in training, validation and test. On a CPU, where
    PyTorch 2.11 may crash in it (docs/speed.md), it has to be asked for.

    ``randomness=dict(deterministic=True)`` needs the environment variable
    ``CUBLAS_WORKSPACE_CONFIG`` on a GPU, which is set where it is missing.

    Args:
        memory_format (str): ``'auto'``, the default: channels last on a GPU
            where :func:`prefers_channels_last` says so;
            ``'channels_last'``: always; ``'contiguous'``: never.

    Raises:
        ValueError: ``memory_format`` is none of these.
    """

    # Ahead of EMAHook, which copies the network.
    priority = 'VERY_HIGH'

    def __init__(self, memory_format: str = 'auto') -> None:
        if memory_format not in FORMATS:
            raise ValueError(
                f'memory_format must be one of {FORMATS}, got '
                f'{memory_format!r}'
            )
        self.memory_format = memory_format

    def before_run(self, runner: Runner) -> None:
        """Acts before the weights are loaded and the first kernel runs."""
        if torch.are_deterministic_algorithms_enabled():
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        arrange(runner.model, self.memory_format)


def arrange(model: nn.Module, memory_format: str = 'auto') -> None:
    """Holds a network in the layout that is asked for; changes it in place.

    Args:
        model: A network on its device.
        memory_format: See :class:`DeviceHook`.
    """
    parameter = next(model.parameters(), None)
    if parameter is None or memory_format == 'contiguous':
        return
    if memory_format == 'auto' and not (
        parameter.is_cuda and prefers_channels_last(model)
    ):
        return
    # The weights decide; images follow at the first convolution.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def prefers_channels_last(model: nn.Module) -> bool:
    """Whether the layout has been measured to be faster for such a network.

    It has for ungrouped convolutions of images. Grouped and depthwise ones
    may be slower in it, so a network with any of them keeps its layout;
    ``tools/benchmarks/step_time.py --layout`` tells.
    """
    groups = [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)]
    return bool(groups) and max(groups) == 1
