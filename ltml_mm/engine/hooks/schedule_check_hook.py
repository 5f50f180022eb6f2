"""Checks that a run has steps, and that its warm-up leaves some of them."""

from __future__ import annotations

import math

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
    """Refuses a run without a step, or whose warm-up reaches the first drop.

    A warm-up in steps does not shrink with the number of processes, as one in
    epochs does. One that outlasts the run, which may be cut short on purpose,
    is only a warning; so is one of a single step, after which MMEngine leaves
    the learning rate at its start.
    """

    def before_train(self, runner: Runner) -> None:
        """Compares the schedule with the length of the run.

        Args:
            runner: The runner, its schedulers built.

        Raises:
            ValueError: The run has no step, or the learning rate drops
                before the warm-up ends.
        """
        _check_steps(runner)
        schedulers = runner.param_schedulers or []
        if isinstance(schedulers, dict):  # of several optimizers
            schedulers = [s for group in schedulers.values() for s in group]
        epoch = len(runner.train_dataloader)
        drops = [
            (scheduler.begin + milestone)
            * (epoch if scheduler.by_epoch else 1)
            for scheduler in schedulers
            if isinstance(scheduler, MultiStepParamScheduler)
            for milestone in scheduler.milestones
        ]
        for scheduler in schedulers:
            if (
                isinstance(scheduler, WARM_UPS)
                and not scheduler.by_epoch
                and scheduler.end < NO_END
            ):
                first_drop = min(drops, default=math.inf)
                _check_warm_up(runner, scheduler.end, first_drop)


def _check_warm_up(runner: Runner, end: int, drop: float) -> None:
    if drop <= end and drop < runner.max_iters:
        raise ValueError(
            f'the warm-up takes {end} steps, but the learning rate drops '
            f'after {drop}: {runner.world_size} process(es) with a batch of '
            f'{runner.train_dataloader.batch_size}. Give it in epochs: '
            "dict(type='LinearLR', start_factor=1 / 3, end=1, "
            'convert_to_iter_based=True)'
        )
    if end == 1 or end > runner.max_iters:
        runner.logger.warning(
            f'a warm-up of {end} step(s) in a run of {runner.max_iters} does '
            'not come to its end: the learning rate stays below its value'
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
