"""Checks that a run has steps, and that its warm-up leaves some of them."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner

#: The schedulers that serve as warm-ups.
WARM_UPS = (LinearParamScheduler, ConstantParamScheduler)

#: MMEngine's "end" of a scheduler that has none.
NO_END = int(1e9)


@HOOKS.register_module()
class ScheduleCheckHook(Hook):
    """Refuses a run without a step, or whose warm-up leaves none.

    A schedule in steps does not shrink with the number of processes: on
    VOC-LT, 8 GPUs leave about 120 steps of a warm-up of 150, and on COCO-LT
    440 of one of 700 before the learning rate drops. Where the run is cut
    short of the schedule that follows (``train_cfg.max_epochs`` below its
    end), that is taken as meant, and only said.
    """

    def before_train(self, runner: Runner) -> None:
        """Compares the schedule with the length of the run.

        Args:
            runner: The runner, its schedulers built.

        Raises:
            ValueError: The run has no step, or a warm-up in steps lasts
                until the first drop of the learning rate or beyond the run.
        """
        _check_steps(runner)
        schedulers = _flatten(runner.param_schedulers)
        ends = [
            scheduler.end
            for scheduler in schedulers
            if isinstance(scheduler, WARM_UPS)
            and not scheduler.by_epoch
            and scheduler.end < NO_END
        ]
        longest = max(ends, default=0)
        steps = runner.max_iters
        drop = _first_drop(schedulers, len(runner.train_dataloader))
        dropped = drop <= longest and drop < steps
        if longest <= steps and not dropped:
            return
        left = (
            f'the learning rate drops after {drop}'
            if dropped
            else f'the run has only {steps}'
        )
        message = (
            f'the warm-up takes {longest} steps, but {left}: '
            f'{runner.world_size} process(es) with a batch of '
            f'{runner.train_dataloader.batch_size}'
        )
        cut_short = any(
            (runner.max_epochs if scheduler.by_epoch else steps)
            < scheduler.end
            < NO_END
            for scheduler in schedulers
            if not isinstance(scheduler, WARM_UPS)
        )
        if dropped or not cut_short:
            raise ValueError(
                f'{message}. Shorten it, for example with --cfg-options '
                f'param_scheduler.0.end={max(1, min(steps, drop) // 6)}'
            )
        runner.logger.warning(f'{message}; it does not come to its end')


def _first_drop(schedulers: list[Any], epoch: int) -> float:
    """The step after which the learning rate drops; infinity if never."""
    return min(
        (
            (scheduler.begin + milestone)
            * (epoch if scheduler.by_epoch else 1)
            for scheduler in schedulers
            if isinstance(scheduler, MultiStepParamScheduler)
            for milestone in scheduler.milestones
        ),
        default=math.inf,
    )


def _check_steps(runner: Runner) -> None:
    """MMEngine ends such a run at once, as if it had trained."""
    loader = runner.train_dataloader
    if len(loader) == 0:
        raise ValueError(
            f'an epoch has no step: its {len(loader.sampler)} draws of this '
            f'process do not fill a batch of {loader.batch_size}; lower '
            'train_dataloader.batch_size or draw more'
        )
    if runner.max_iters < 1:
        raise ValueError(
            'train_cfg gives a run without a step: max_epochs or max_iters '
            'must be at least 1'
        )


def _flatten(schedulers: Any) -> list[Any]:
    if isinstance(schedulers, dict):
        schedulers = [s for group in schedulers.values() for s in group]
    return list(schedulers or [])
