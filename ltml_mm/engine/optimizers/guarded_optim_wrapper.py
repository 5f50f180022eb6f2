"""Optimizer wrappers that keep infinity and NaN out of the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from ltml_mm.engine.hooks.late_values import StepCheck, log_late
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
    the last of the accumulated batches. It costs one gradient norm. Finite
    steps are those of ``OptimWrapper`` bit by bit.

    PyTorch's fused optimizers leave such a step out by themselves. With them
    and ``'stop'`` the host reads what was found as late as the next step,
    validation or checkpoint, if ``SafeCheckpointHook`` saves those.

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
        #: Whether somebody reads a check ahead of each validation and save.
        self.reads_late = False
        self._unread: StepCheck | None = None
        self._clear()

    def _clear(self) -> None:
        """Drops the records of the last step."""
        self._module: nn.Module | None = None
        self._check: Any = None
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

    def _rescales(self) -> bool:
        """Whether a gradient scaler leaves out steps that overflow."""
        scaler: Any = getattr(self, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    @torch.compiler.disable  # Which cannot trace how processes agree.
    def step(self, **kwargs: Any) -> None:
        """Checks, clips and steps.

        Raises:
            NonFiniteError: The loss or the gradients are not finite, or were
                not in the step before.
        """
        given: Any = self.clip_grad_kwargs  # type: ignore[has-type]
        optimizer: Any = self.optimizer
        try:
            self.check_last_step()
            weights = [p for g in optimizer.param_groups for p in g['params']]
            weights = [p for p in weights if p.requires_grad]
            weights = [p for p in weights if p.grad is not None]
            if self._rescales():
                self.loss_scaler.unscale_(optimizer)
            args = self._inner_count, self._module, weights, self._batches
            self._check = check = StepCheck(*args)
            if self.on_nonfinite == 'stop' and self._skips_by_itself():
                self._unread = check
                optimizer.found_inf = check.flags.amax().float()
                if self._rescales():  # Whose own takes the place of this.
                    found = self.loss_scaler._found_inf_per_device(optimizer)
                    for own in found.values():
                        own.copy_(torch.maximum(own, check.flags[0].to(own)))
            elif not self._judge(check):
                return
            if given:
                self._clip_grad()
            self.clip_grad_kwargs = None
            super().step(**kwargs)
        finally:
            self.clip_grad_kwargs = given
            optimizer.__dict__.pop('found_inf', None)
            self._clear()

    def check_last_step(self) -> None:
        """Reads what the last step's check found, where nobody has.

        All processes must call it.

        Raises:
            NonFiniteError: The loss or the gradients were not finite.
        """
        check, self._unread = self._unread, None
        if check is not None:
            self._judge(check)

    def _skips_by_itself(self) -> bool:
        """Whether the optimizer leaves a step out where a tensor says so."""
        skips = getattr(self.optimizer, '_step_supports_amp_scaling', False)
        fused = all(g.get('fused') for g in self.optimizer.param_groups)
        # Another way to clip may raise an error of its own, or reads a norm.
        return skips and fused and self.reads_late and self._clips_plainly()

    def _clips_plainly(self) -> bool:
        """Whether gradients are clipped by their 2-norm, or not at all."""
        given: Any = {**(self.clip_grad_kwargs or {}), 'max_norm': 0}
        return given in ({'max_norm': 0}, {'max_norm': 0, 'norm_type': 2})

    def _clip_grad(self) -> None:
        """Clips as the parent by a norm that is known, without a wait."""
        norm, weights = self._check.norm, self._check.weights
        if not self._clips_plainly():
            super()._clip_grad()
        elif weights:
            limit = (self.clip_grad_kwargs or {})['max_norm']
            clip_grads_with_norm_(weights, limit, norm)
            log_late(self.message_hub, f'train/{self.grad_name}', norm)

    def _judge(self, check: StepCheck) -> bool:
        """Whether a step is taken. Ends a run that is to stop."""
        bad_loss, bad_norm, *_ = check.read()
        self._in_a_row = self._in_a_row + 1 if bad_loss or bad_norm else 0
        since = ''
        if self._in_a_row > MAX_IN_A_ROW:
            since = f'for {self._in_a_row} steps in a row '
        elif not bad_loss and (not bad_norm or self._rescales()):
            return True
        if self._rescales():  # The scale stays.
            self.loss_scaler.update(self.loss_scaler.get_scale())
        text = f'step {check.step}: {since}{check.describe()}'
        if since or self.on_nonfinite == 'stop':
            raise NonFiniteError(
                f'{text}\nTo leave such steps out: '
                '--cfg-options optim_wrapper.on_nonfinite=skip'
            )
        self._skip(text)
        return False

    def _skip(self, text: str) -> None:
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
                stack.callback(loss.register_forward_pre_hook(_widen).remove)
            stack.enter_context(super().optim_context(model))
            yield


def _widen(_: nn.Module, args: tuple) -> tuple:
    return (upcast(args[0]), *args[1:])


def _images(value: Any) -> bool:  # Which need not outlive a backward pass.
    parts = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(part, Tensor) for part in parts)
