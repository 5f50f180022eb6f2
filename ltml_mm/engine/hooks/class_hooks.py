"""Hooks for the classes of a run: counts, first biases, last report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import nn

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import training_metainfo
from ltml_mm.decisions import thresholds
from ltml_mm.decisions.choice import add_decisions, gain_text
from ltml_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.hooks.guard_hooks import images_of, share_images
from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.evaluation import GroupedAveragePrecision, class_table
from ltml_mm.files import write_json


@HOOKS.register_module()
class ClassStatisticsHook(Hook):
    """Gives the training set's statistics to every module that takes them.

    Each module of the model with a method ``set_class_statistics`` receives
    the counts before training, after a checkpoint was loaded. They live in
    its buffers and travel with the checkpoint. With ``load_from`` the new
    data's counts replace the checkpoint's. On ``--resume`` both must be
    equal; ``ExactResumeHook``, where it is there, checks that.
    """

    # Hooks of lower priority may read the losses' counts.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Sets the statistics.

        Raises:
            ValueError: Counts are missing that a loss or a metric needs, a
                number of classes is another, or a resumed run had others.
        """
        metainfo = training_metainfo(runner.train_dataloader.dataset)
        _check_num_classes(runner.model, metainfo.get('classes'))
        compare = runner._resume and not any(
            isinstance(hook, ExactResumeHook) and hook.compares
            for hook in runner.hooks
        )
        for module in runner.model.modules():
            if hasattr(module, 'set_class_statistics'):
                statistics = ClassStatistics.from_metainfo(metainfo)
                if compare:
                    _check_counts(module, statistics)
                module.set_class_statistics(statistics)
        evaluator: Any = getattr(runner.val_loop, 'evaluator', None)
        for metric in getattr(evaluator, 'metrics', ()):
            if isinstance(metric, GroupedAveragePrecision):
                # Not after hours, when the first validation ends.
                ClassStatistics.from_metainfo(evaluator.dataset_meta or {})


def _check_counts(module: Any, statistics: ClassStatistics) -> None:
    """Compares the statistics with those that a resumed module has."""
    found = getattr(module, 'class_counts', None)
    if found is None or not module.num_train_images:
        return
    old = [int(module.num_train_images), *found.tolist()]
    new = [statistics.num_images, *statistics.counts]
    for k, (before, now) in enumerate(zip(old, new, strict=False)):
        if before != now:
            kind = f'images of class {k - 1}' if k else 'images'
            raise ValueError(
                f'the checkpoint was trained on {before} {kind}, the training '
                f'set has {now}: restore the data; or start a new training '
                'from its weights with --cfg-options load_from=CHECKPOINT in '
                'place of --resume'
            )


def _check_num_classes(
    model: nn.Module, classes: Sequence[str] | None
) -> None:
    if classes is None:
        return
    shown = ', '.join(map(str, classes[:3]))
    shown += ', ...' if len(classes) > 3 else ''
    for name, module in model.named_modules():
        if not isinstance(module, (ClsHead, MultiLabelClsHead)):
            continue
        given = getattr(module, 'num_classes', len(classes))
        if given != len(classes):
            raise ValueError(
                f'{name} has num_classes={given}, but the training set has '
                f'{len(classes)} classes ({shown}): set '
                f"num_classes={len(classes)} in the config's model"
            )


@HOOKS.register_module()
class PriorBiasHook(Hook):
    """Starts the heads at the frequencies of the classes.

    With biases of zero every class starts at a probability of one half, far
    above its frequency. The first steps then move all logits down together,
    and the faster the more features and rate there are: the two branches
    overshoot, each in its own way, and the squared difference of their logits
    takes over. With log n_k / (N - n_k) nothing is left to move. A training
    that resumes or starts from a checkpoint keeps its biases.
    """

    # After the checkpoint was loaded, ahead of the copies of the weights.
    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Sets the bias of each head's last linear layer, if it has one.

        Raises:
            ValueError: The training set has no counts.
        """
        if runner.iter or runner._load_from:
            return
        metainfo = training_metainfo(runner.train_dataloader.dataset)
        statistics = ClassStatistics.from_metainfo(metainfo)
        counts = torch.tensor(statistics.counts, dtype=torch.float64)
        # One image more on both sides: a class without images has a logit.
        prior = torch.log((counts + 1) / (statistics.num_images - counts + 1))
        for head in unwrap_model(runner.model).modules():
            if isinstance(head, (ClsHead, MultiLabelClsHead)):
                found = [m for m in head.modules() if isinstance(m, nn.Linear)]
                if found and found[-1].bias is not None:
                    with torch.no_grad():
                        found[-1].bias.copy_(prior)


@HOOKS.register_module()
class ClassReportHook(Hook):
    """Shows total, head, medium, tail and every class after a run.

    The last validation after training, the test after testing: a table in
    the log, and JSON in the work directory, ``val_class_report.json`` and
    ``test_class_report.json``, each written atomically. Without
    :class:`~ltml_mm.evaluation.GroupedAveragePrecision` in the evaluator it
    does nothing, so it fits every config.

    Where the validation images are none of the test or the training set, the
    training ends with one threshold a class, of the best F1, which are in
    the table and in ``thresholds.json``: ``predict.py`` takes them.
    """

    def __init__(self) -> None:
        self._digest: str | None = None

    @master_only
    def after_val_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any
    ) -> None:
        """Notes which weights the last validation sees.

        After it they may be others: of ``EMAHook`` the average is validated.
        """
        stops = any(isinstance(h, EarlyStoppingHook) for h in runner.hooks)
        over = runner.iter >= runner.max_iters
        last = over or stops or runner.epoch >= runner.max_epochs
        if batch_idx == 0 and last:
            model = unwrap_model(runner.model)
            self._digest = thresholds.weights_digest(model.state_dict())

    @master_only
    def after_test_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any
    ) -> None:
        """Notes which weights are tested, on single views."""
        model = unwrap_model(runner.model)
        if batch_idx == 0 and not isinstance(model, BaseTTAModel):
            self._digest = thresholds.weights_digest(model.state_dict())

    def after_train(self, runner: Runner) -> None:
        """Shows the last validation, if there was one."""
        self._show(runner, runner.val_loop, 'val')

    def after_test(self, runner: Runner) -> None:
        """Shows the test."""
        self._show(runner, runner.test_loop, 'test')

    @master_only
    def _show(self, runner: Runner, loop: Any, split: str) -> None:
        evaluator = getattr(loop, 'evaluator', None)
        for metric in getattr(evaluator, 'metrics', ()):
            if isinstance(metric, GroupedAveragePrecision) and metric.report:
                report, said = metric.report, ''
                report['model'] = self._digest
                if split == 'val' and self._digest is not None:
                    try:
                        said = self._choose(runner, metric, report)
                    # The training is done: no file of data undoes it.
                    except (OSError, ValueError) as error:
                        runner.logger.warning(f'no thresholds: {error}')
                path = Path(runner.work_dir, f'{split}_class_report.json')
                runner.logger.info(
                    f'Average precision in percent ({path}):\n'
                    f'{class_table(report)}{said}',
                    extra={'screen': True},  # Also shown by quiet tools.
                )
                write_json(path, report)
                return

    def _choose(
        self,
        runner: Runner,
        metric: GroupedAveragePrecision,
        report: dict[str, Any],
    ) -> str:
        """Adds thresholds to the report, writes them, says what they bring."""
        val, test = (
            images_of(runner.cfg.get(f'{split}_dataloader'))
            for split in ('val', 'test')
        )
        if not val or metric.evaluated is None or share_images(val, test):
            return ''
        # Not at the top: the tools import the hooks.
        from ltml_mm.decisions.selection import (
            choose_thresholds,
            describe_images,
            no_validation,
        )

        scores, targets = metric.evaluated
        # The test set is not read in a training: test.py alone does that.
        if no_validation(runner.cfg, read_test=False) or not targets.any():
            return ''
        name = Path(
            runner.message_hub.runtime_info.get('last_ckpt') or 'model'
        )
        keys = ('name', 'group', 'train_images')
        chosen = choose_thresholds(
            scores,
            targets,
            [{key: row[key] for key in keys} for row in report['classes']],
            {'name': name.name, 'sha256': str(self._digest)},
            describe_images(runner.val_dataloader),
        )
        add_decisions(report, chosen)
        path = Path(runner.work_dir, thresholds.FILE_NAME)
        thresholds.write_thresholds(path, chosen)
        gain = gain_text(chosen, scores, targets)
        return f'\n{gain}\nThresholds for predict.py: {path}'
