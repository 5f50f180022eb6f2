"""Optimizer wrappers that let no infinity and no NaN into the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_dist_info
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ltml_mm.engine.optimizers.step_record import StepRecord

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

    A step whose loss or total gradient norm is infinite or NaN is not taken.
    The decision falls when the optimizer would step, after the last of the
    accumulated batches, for all processes together. It costs no wait for the
    GPU beyond the one for the gradient norm, which is logged anyway where
    gradients are clipped. Finite steps are those of ``OptimWrapper``, bit by
    bit.

    ``NumericsHook`` says where the dump is written.

    Args:
        on_nonfinite (str): ``'stop'`` ends the run with a message (step,
            terms of the loss, images) and a dump,
            ``nonfinite_step_7.pth`` in the work directory, that
            :func:`ltml_mm.apis.replay_step` computes again. ``'skip'``
            leaves the step out, with a warning, restores buffers such as
            BatchNorm's running statistics, and counts it in the scalar
            ``train/skipped_steps``; more than 40 steps in a row stop the
            run all the same. Defaults to ``'stop'``.
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
        self.dump_dir: str | None = None
        self._record = StepRecord()
        self._in_a_row = 0

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Records the batch; otherwise as the parent's."""
        with self._record.watch(model), super().optim_context(model):
            yield

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """Remembers the loss; otherwise as the parent's."""
        self._record.losses.append(loss.detach())
        super().update_params(loss, step_kwargs, zero_kwargs)

    def step(self, **kwargs: Any) -> None:
        """Checks, clips and steps.

        Args:
            **kwargs: Those of the optimizer's ``step``.

        Raises:
            NonFiniteError: The loss or the gradients are not finite.
        """
        try:
            self._unscale()
            norm = self._gradient_norm()
            bad_loss, bad_norm = self._agree(norm)
            rescaled = bad_norm and not bad_loss and self._rescales()
            self._in_a_row = self._in_a_row + 1 if bad_loss or bad_norm else 0
            if self._in_a_row > MAX_IN_A_ROW:
                self._stop(norm, f'for {self._in_a_row} steps in a row ')
            if rescaled or not (bad_loss or bad_norm):
                self._clip(norm)
                self._apply(**kwargs)
            elif self.on_nonfinite == 'stop':
                self._stop(norm)
            else:
                self._skip(norm)
        finally:
            self._record.clear()

    def _unscale(self) -> None:
        """Undoes the scaling of the loss."""

    def _rescales(self) -> bool:
        """Whether gradients that are not finite are dealt with already."""
        return False

    def _apply(self, **kwargs: Any) -> None:
        self.optimizer.step(**kwargs)

    def _leave_out(self) -> None:
        """Gets ready for the step after one that is left out."""

    def _parameters(self) -> list[Tensor]:
        return [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.requires_grad and parameter.grad is not None
        ]

    def _clips_norm(self) -> bool:
        return bool(self.clip_grad_kwargs) and self.grad_name == 'grad_norm'

    def _gradient_norm(self) -> Tensor:
        kwargs = self.clip_grad_kwargs if self._clips_norm() else {}
        return get_total_norm(
            [p.grad for p in self._parameters() if p.grad is not None],
            **{k: v for k, v in kwargs.items() if k != 'max_norm'},
        )

    def _agree(self, norm: Tensor) -> tuple[bool, bool]:
        """Checks loss and norm on all processes, and logs the norm."""
        losses = [loss.to(norm) for loss in self._record.losses]
        fine = [
            torch.stack(numbers).isfinite().all()
            for numbers in (losses or [norm], [norm])
        ]
        flags = torch.stack(fine).logical_not().to(norm.dtype)
        all_reduce(flags, 'max')
        # The only wait for the GPU.
        bad_loss, bad_norm, value = torch.cat([flags, norm[None]]).tolist()
        if self._clips_norm() and self._parameters():
            self.message_hub.update_scalar('train/grad_norm', value)
        return bool(bad_loss), bool(bad_norm)

    def _clip(self, norm: Tensor) -> None:
        parameters = self._parameters()
        if not self.clip_grad_kwargs or not parameters:
            return
        if self._clips_norm():
            kwargs = {
                name: value
                for name, value in self.clip_grad_kwargs.items()
                if name in ('max_norm', 'foreach')
            }
            clip_grads_with_norm_(parameters, total_norm=norm, **kwargs)
        else:
            self.clip_func(parameters, **self.clip_grad_kwargs)

    def _skip(self, norm: Tensor) -> None:
        text, _ = self._describe(norm)
        self._record.restore_buffers()
        self._leave_out()
        count = self.message_hub.runtime_info.get(SKIPPED, 0) + 1
        self.message_hub.update_info(SKIPPED, count)
        self.message_hub.update_scalar(f'train/{SKIPPED}', count)
        print_log(
            f'{text}\nThe step is left out. Left out so far: {count}',
            logger='current',
            level=logging.WARNING,
        )

    def _stop(self, norm: Tensor, since: str = '') -> None:
        text, dumps = self._describe(norm, since, dump=True)
        raise NonFiniteError(
            f'{text}\n{dumps}\nTo look into it: ltml_mm.apis.replay_step, see '
            'docs/reliability.md. To leave such steps out: --cfg-options '
            'optim_wrapper.on_nonfinite=skip'
        )

    def _describe(
        self, norm: Tensor, since: str = '', dump: bool = False
    ) -> tuple[str, str]:
        """Tells what all processes found; all of them must call it."""
        rank, world_size = get_dist_info()
        own = any(not x.isfinite().all() for x in self._record.losses)
        # Gradients are the same everywhere: where every loss is finite, any
        # process may have caused them.
        anyone = any(_gather(own, world_size))
        guilty = own or not anyone
        report = {
            'loss': own,
            'terms': self._record.terms(),
            'gradients': self._record.gradients(),
            'images': self._record.images(),
            'dump': self._dump(rank, world_size) if dump and guilty else '',
        }
        reports = _gather(report if guilty else None, world_size)
        text = '\n'.join(
            _sentence(found, float(norm), r if world_size > 1 else None)
            for r, found in enumerate(reports)
            if found
        )
        dumps = '\n'.join(found['dump'] for found in reports if found)
        return f'step {self._inner_count}: {since}{text}', dumps

    def _dump(self, rank: int, world_size: int) -> str:
        if self.dump_dir is None:
            return "No dump: dict(type='NumericsHook') is not in the hooks."
        own = f'_rank_{rank}' if world_size > 1 else ''
        name = f'nonfinite_step_{self._inner_count}{own}.pth'
        path = Path(self.dump_dir) / name
        try:
            self._record.save(path, self._inner_count)
        except OSError as error:
            return f'No dump: {path} could not be written: {error}.'
        return f'Dump: {path}'


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(GuardedOptimWrapper, AmpOptimWrapper):
    """An ``AmpOptimWrapper`` that checks loss and gradients.

    As :class:`GuardedOptimWrapper`. Gradients that overflow are no error
    while the gradient scaler works: it leaves the step out and lowers its
    scale. A loss that is not finite is one, and so are 40 overflows in a
    row. A step that is skipped leaves the scale as it is.

    Args:
        on_nonfinite (str): ``'stop'`` or ``'skip'``. Defaults to ``'stop'``.
        **kwargs: Those of MMEngine's ``AmpOptimWrapper``.
    """

    def _unscale(self) -> None:
        self.loss_scaler.unscale_(self.optimizer)

    def _rescales(self) -> bool:
        return self.loss_scaler.is_enabled()

    def _apply(self, **kwargs: Any) -> None:
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._scale_update_param)

    def _leave_out(self) -> None:
        # With a value of its own, or it would lower the scale.
        self.loss_scaler.update(self.loss_scaler.get_scale())


def _gather(value: Any, world_size: int) -> list:
    return all_gather_object(value) if world_size > 1 else [value]


def _sentence(report: dict[str, Any], norm: float, rank: int | None) -> str:
    """Tells in words what one process found."""
    where = '' if rank is None else f'on process {rank} '
    if report['loss']:
        terms = [
            f'{name} = {value}' for name, value in report['terms'].items()
        ]
        text = f'{where}the loss is not finite ({", ".join(terms) or "total"})'
    else:
        names = report['gradients']
        text = (
            f'{where}the loss is finite, but the norm of the gradients is '
            f'{norm}'
        )
        if names:
            more = f' and {len(names) - 3} more' if len(names) > 3 else ''
            text += f' (parameters {", ".join(names[:3])}{more})'
    lines = [f'{text}. Images of the batch:']
    for stream, paths in report['images'].items():
        lines += [f'  {stream} {path}'.rstrip() for path in paths]
    if not report['images']:
        lines.append('  unknown, the samples carry no img_path')
    return '\n'.join(lines)
