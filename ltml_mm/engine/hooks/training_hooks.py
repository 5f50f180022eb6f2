"""Hooks that fit a run to its training data, watch it and report on it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.optim import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import nn

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import training_metainfo
from ltml_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.hooks.resume_state import flat_schedulers, unwrap_model
from ltml_mm.evaluation import GroupedAveragePrecision, class_table
from ltml_mm.files import write_json

#: The learnable scales among the parameters of a loss.
SCALES = ('pos_scale', 'neg_scale')
#: The schedulers that serve as warm-ups.
WARM_UPS = (LinearParamScheduler, ConstantParamScheduler)
#: MMEngine's "end" of a scheduler that has none.
NO_END = int(1e9)


@HOOKS.register_module()
class ClassStatisticsHook(Hook):
    """Gives the training set's statistics to every module that takes them.

    Before training, after a checkpoint was loaded, each module of the model
    with a method ``set_class_statistics`` receives the counts of the
    training set. They live in its buffers and travel with the checkpoint.
    With ``load_from`` its counts give way to those of the data; a resumed
    run must have the same, unless ``ExactResumeHook`` compares the data. A
    model with another number of classes than the training set's is an error.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Sets the statistics.

        Args:
            runner: The runner, its model loaded.

        Raises:
            ValueError: The training set has no counts, a module has another
                number of classes, or a resumed run had other counts.
        """
        dataset = runner.train_dataloader.dataset
        metainfo = training_metainfo(dataset)
        _check_num_classes(runner.model, metainfo.get('classes'))
        compare = runner._resume and not any(
            isinstance(hook, ExactResumeHook) for hook in runner.hooks
        )
        for module in runner.model.modules():
            if hasattr(module, 'set_class_statistics'):
                statistics = ClassStatistics.from_metainfo(metainfo)
                if compare:
                    _check_counts(module, list(statistics.counts))
                module.set_class_statistics(statistics)


def _check_counts(module: nn.Module, counts: list[int]) -> None:
    """Compares counts with those that a resumed module has, if any."""
    found = getattr(module, 'class_counts', None)
    if found is None or not module.num_train_images:
        return
    pairs = enumerate(zip(found.tolist(), counts, strict=False))
    for k, (old, new) in pairs:
        if old != new:
            raise ValueError(
                f'the checkpoint was trained on {old} images of class {k}, '
                f'the training set has {new}: restore the data; or start a '
                'new training from its weights with --cfg-options '
                'load_from=CHECKPOINT in place of --resume'
            )


def _check_num_classes(
    model: nn.Module, classes: Sequence[str] | None
) -> None:
    if classes is None:
        return
    for name, module in model.named_modules():
        if not isinstance(module, (ClsHead, MultiLabelClsHead)):
            continue
        given = getattr(module, 'num_classes', len(classes))
        if given != len(classes):
            raise ValueError(
                f'{name} has num_classes={given}, but the training set has '
                f'{len(classes)} classes ({_shorten(classes)}): set '
                f"num_classes={len(classes)} in the config's model"
            )


def _shorten(names: Sequence[str]) -> str:
    shown = ', '.join(map(str, names[:3]))
    return f'{shown}, ...' if len(names) > 3 else shown


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
        schedulers = flat_schedulers(runner)
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


@HOOKS.register_module()
class NumericsHook(Hook):
    """Warns of learnable scales that leave a range.

    The learnable scales of the logit compensation start at 1. One out of
    range shrinks a class's logits to nothing, lets single images
    dominate, or, below 0, turns the class's meaning around. Each is named
    in a warning once; training goes on.

    Args:
        low (float): The least scale that is not worth a warning. Defaults
            to 0.1.
        high (float): The largest. Defaults to 10.
        interval (int): Steps between two checks, each of which waits for the
            GPU. Defaults to 50.

    Raises:
        ValueError: ``low`` is not less than ``high``, or ``interval`` less
            than 1.
    """

    def __init__(
        self, low: float = 0.1, high: float = 10.0, interval: int = 50
    ) -> None:
        if not low < high:
            raise ValueError(f'low must be less than high, got {low}, {high}')
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.low = low
        self.high = high
        self.interval = interval
        self._warned: set[tuple[str, int]] = set()

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Checks the scales every ``interval`` steps."""
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Checks the scales at the end."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        scales = {
            name: parameter.detach()
            for name, parameter in unwrap_model(
                runner.model
            ).named_parameters()
            if name.split('.')[-1] in SCALES
        }
        if not scales:
            return
        values = torch.stack([*scales.values()]).cpu()  # Of shape (S, K).
        strange = ~((values >= self.low) & (values <= self.high))
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        classes = metainfo.get('classes')
        names = list(scales)
        found = []
        for row, k in strange.nonzero().tolist():
            if (names[row], k) not in self._warned:
                self._warned.add((names[row], k))
                label = classes[k] if classes else f'class {k}'
                found.append(f'{names[row]} of {label}: {values[row, k]:.3g}')
        if found:
            runner.logger.warning(
                f'learnable scales left the range {self.low} to {self.high} '
                f'by step {runner.iter + 1}: {"; ".join(found)}. A smaller '
                "learning rate or loss_cls.compensation='statistics' keeps "
                'them nearer to 1'
            )


@HOOKS.register_module()
class ClassReportHook(Hook):
    """Shows total, head, medium, tail and every class after a run.

    After training it shows the last validation, after testing the test, as
    a table in the log and as JSON in the work directory:
    ``val_class_report.json`` and ``test_class_report.json``, each replaced
    as a whole. It needs :class:`~ltml_mm.evaluation.GroupedAveragePrecision`
    in the evaluator and does nothing without, so it fits every config.
    """

    def after_train(self, runner: Runner) -> None:
        """Shows the last validation, if there was one."""
        self._show(runner, runner.val_loop, 'val')

    def after_test(self, runner: Runner) -> None:
        """Shows the test."""
        self._show(runner, runner.test_loop, 'test')

    @master_only
    def _show(self, runner: Runner, loop: Any, split: str) -> None:
        report = _find_report(loop)
        if report is None:
            return
        path = os.path.join(runner.work_dir, f'{split}_class_report.json')
        runner.logger.info(
            f'Average precision in percent ({path}):\n{class_table(report)}'
        )
        write_json(path, report)


def _find_report(loop: Any) -> dict[str, Any] | None:
    evaluator = getattr(loop, 'evaluator', None)
    for metric in getattr(evaluator, 'metrics', ()):
        if isinstance(metric, GroupedAveragePrecision):
            return metric.report
    return None
