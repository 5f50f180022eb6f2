"""Refuses checkpoints and schedules that do not fit the training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.models.fork.branches import plain_name

#: The schedulers that serve as warm-ups.
WARM_UPS = (LinearParamScheduler, ConstantParamScheduler)
#: MMEngine's "end" of a scheduler that has none.
NO_END = int(1e9)
SHOWN = 5
#: Tables of positions, which MMPretrain resizes to the images at hand.
RESIZED = re.compile('pos_embed|position|coords_table|attn_mask')
RESUME = (
    'cannot resume from',
    'To start a new training from its weights, use --cfg-options '
    'load_from=CHECKPOINT in place of --resume',
)
TEST = ('cannot evaluate', 'Give the config that it was trained with')
LOAD_FROM = (
    'cannot load',
    'For weights of a backbone alone, use '
    "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...) in "
    'place of load_from',
)


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Checks that a checkpoint fits the model key by key.

    MMEngine loads what fits and logs the rest. On ``--resume`` part of the
    model would silently start anew, and a test would evaluate it so: there
    every key has to fit. With ``load_from`` heads may be others, those of
    another number of classes, say; but the weights of another backbone are
    refused, where most are missing or one has another shape.

    Args:
        whole (bool): Whether every key has to fit for ``load_from``, too, as
            in a test. Defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the names and shapes of a checkpoint with the model's.

        Args:
            runner: The runner.
            checkpoint: The loaded checkpoint, ``state_dict`` in it.

        Raises:
            ValueError: They differ; names the first of them and what to do.
        """
        expected = unwrap_model(runner.model).state_dict()
        # MMEngine ignores this prefix, too.
        found = {
            re.sub(r'^module\.', '', key): value
            for key, value in checkpoint['state_dict'].items()
        }
        strict = runner._resume or self.whole
        compare = compare_state_dicts if strict else _other_backbone
        problems = compare(expected, found)
        if problems:
            start, mend = LOAD_FROM
            if strict:
                start, mend = RESUME if runner._resume else TEST
            raise ValueError(
                f'{start} {runner._load_from or "the latest checkpoint"}: it '
                f'is a checkpoint of another model ({len(problems)} '
                f'differences: {"; ".join(problems[:SHOWN])}). {mend}'
            )


def compare_state_dicts(
    expected: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
    """Describes the names and shapes in which two state dicts differ.

    Args:
        expected: The state dict of a model.
        found: That of a checkpoint.

    Returns:
        list[str]: A description of each difference, in order of the names;
        empty where none differs.
    """
    differences = []
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            differences.append(f'{key} is missing')
        elif key not in expected:
            differences.append(f'{key} is unexpected')
        elif _shape(found[key]) != _shape(expected[key]):
            differences.append(_reshaped(key, expected[key], found[key]))
    return differences


def _shape(value: Any) -> tuple[int, ...] | None:
    # A checkpoint from elsewhere may hold other things than tensors.
    shape = getattr(value, 'shape', None)
    return None if shape is None else tuple(shape)


def _reshaped(key: str, expected: Any, found: Any) -> str:
    return f'{key} has shape {_shape(found)} instead of {_shape(expected)}'


def _other_backbone(
    expected: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
    """Lists what tells another backbone; nothing where it is the same."""
    missing, changed = [], []
    names = [key for key in expected if key.startswith('backbone.')]
    for name in names:
        # A plain checkpoint goes to both branches.
        key = name if name in found else plain_name(name)
        if key not in found:
            missing.append(f'{name} is missing')
        elif RESIZED.search(name):
            continue
        elif _shape(found[key]) != _shape(expected[name]):
            changed.append(_reshaped(key, expected[name], found[key]))
    return changed + (missing if 2 * len(missing) > len(names) else [])


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
