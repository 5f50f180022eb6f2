"""Hooks that fit a run to its training data, watch it and report on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.model import BaseTTAModel
from mmengine.optim import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import Tensor, nn

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import training_metainfo
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.decisions.choice import add_decisions, gain_text
from ltml_mm.decisions.thresholds import (
    FILE_NAME,
    weights_digest,
    write_thresholds,
)
from ltml_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.hooks.resume_state import flat_schedulers, unwrap_model
from ltml_mm.evaluation import GroupedAveragePrecision, class_table
from ltml_mm.files import write_json

#: The learnable scales among the parameters of a loss.
SCALES = ('pos_scale', 'neg_scale')
#: The range that they should not leave, and how often it is looked at.
LOW, HIGH, INTERVAL = 0.1, 10.0, 50
#: The schedulers that serve as warm-ups.
WARM_UPS = (LinearParamScheduler, ConstantParamScheduler)
#: What in a dataset's config says how its images are shown, not which.
SHOWING = (
    'image_cache',
    'lazy_init',
    'metainfo',
    'pipeline',
    'serialize_data',
)
#: MMEngine's "end" of a scheduler that has none.
NO_END = int(1e9)


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
            ValueError: The training set has no counts, a module has another
                number of classes, or a resumed run had other counts.
        """
        dataset = runner.train_dataloader.dataset
        metainfo = training_metainfo(dataset)
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
        others = statistics.num_images - counts
        prior = torch.log((counts + 1) / (others + 1))
        for head in unwrap_model(runner.model).modules():
            if isinstance(head, (ClsHead, MultiLabelClsHead)):
                linear = [
                    x for x in head.modules() if isinstance(x, nn.Linear)
                ]
                if linear and linear[-1].bias is not None:
                    with torch.no_grad():
                        linear[-1].bias.copy_(prior)


@HOOKS.register_module()
class ConsistencyLimitHook(Hook):
    """Weakens the consistency loss where the rate is too high for it.

    Two linear heads with equal features of mean squared length m draw
    together at the curvature 8 lambda m / K. SGD with momentum b and rate r
    makes them overshoot, further at each step, where r times that exceeds
    2 (1 + b): see "Stability" in docs/method.md. So lambda is lowered in each
    step to ``limit`` K / (r m); the loss is as configured where that is more.

    Args:
        limit: 0.475 is where SGD with momentum 0.9 diverges.
    """

    def __init__(self, limit: float = 0.2) -> None:
        if not limit > 0:
            raise ValueError(f'limit must be positive, got {limit!r}')
        self.limit = limit
        self._rate = 0.0
        self._powers: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Finds the loss; without one, or another optimizer, does nothing."""
        model: Any = unwrap_model(runner.model)
        loss: Any = getattr(model, 'loss_consistency', None)
        sgd = isinstance(runner.optim_wrapper.optimizer, torch.optim.SGD)
        if sgd and getattr(loss, 'on', None) == 'logits':
            for head in model.heads.values():
                head.register_forward_pre_hook(self._measure)
            loss.register_forward_hook(self._weaken)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Notes the rate of the step."""
        self._rate = max(runner.optim_wrapper.get_lr()['lr'])
        self._powers = []

    @torch.no_grad()
    def _measure(self, head: nn.Module, args: tuple) -> None:
        feats: Any = args
        while not isinstance(feats, Tensor):
            feats = feats[-1]
        feats = feats.float()
        feats = feats.flatten(2).mean(2) if feats.dim() > 2 else feats
        self._powers = [*self._powers[-1:], feats.square().sum(1).mean()]

    def _weaken(self, loss: Any, args: tuple, output: Tensor) -> Tensor:
        classes = 1 if loss.reduction == 'sum' else args[0].shape[1]
        power = torch.stack(self._powers).mean()
        steepness = self._rate * loss.loss_weight * power / classes
        return output * (self.limit / steepness).clamp(max=1)


@HOOKS.register_module()
class ScheduleCheckHook(Hook):
    """Refuses a run without a step, or whose warm-up reaches the first drop.

    A warm-up in steps does not shrink with the number of processes, as one in
    epochs does. A run that stops, keeps a best checkpoint or lowers its rate
    by the validation is refused where that reads the test set.
    """

    def before_train(self, runner: Runner) -> None:
        """Compares the schedule with the length of the run.

        Raises:
            ValueError: The run has no step, which MMEngine ends at once as if
                it had trained, the rate drops before the warm-up ends, or
                what is chosen would be chosen on the test set.
        """
        _check_choices(runner)
        loader = runner.train_dataloader
        if len(loader) == 0:
            raise ValueError(
                f'an epoch has no step: its {len(loader.sampler)} draws of '
                f'this process do not fill a batch of {loader.batch_size}; '
                'lower train_dataloader.batch_size or draw more'
            )
        if runner.max_iters < 1:
            raise ValueError(
                'train_cfg gives a run without a step: max_epochs or '
                'max_iters must be at least 1'
            )
        schedulers = flat_schedulers(runner)
        drop = min(
            (
                (scheduler.begin + milestone)
                * (len(loader) if scheduler.by_epoch else 1)
                for scheduler in schedulers
                if isinstance(scheduler, MultiStepParamScheduler)
                for milestone in scheduler.milestones
            ),
            default=runner.max_iters,
        )
        for scheduler in schedulers:
            end = scheduler.end
            counts_steps = not scheduler.by_epoch and end < NO_END
            if not isinstance(scheduler, WARM_UPS) or not counts_steps:
                continue
            if end > runner.max_iters:
                runner.logger.warning(
                    f'the warm-up takes {end} steps, but the run has only '
                    f'{runner.max_iters}; it does not come to its end'
                )
            if drop <= end and drop < runner.max_iters:
                raise ValueError(
                    f'the warm-up takes {end} steps, but the learning rate '
                    f'drops after {drop}: {runner.world_size} process(es) '
                    f'with a batch of {loader.batch_size}. Give it in epochs: '
                    "dict(type='LinearLR', start_factor=1 / 3, end=1, "
                    'convert_to_iter_based=True)'
                )


def _check_choices(runner: Runner) -> None:
    """Refuses choices by a validation that reads the test set."""
    choosing = [
        getattr(part, 'save_best', None) and 'save_best'
        for part in runner.hooks
    ]
    choosing += [
        type(part).__name__
        for part in [*runner.hooks, *flat_schedulers(runner)]
        if hasattr(part, 'monitor')
    ]
    found = [name for name in choosing if name]
    validated = _images_of(runner.cfg.get('val_dataloader'))
    tested = _images_of(runner.cfg.get('test_dataloader'))
    if found and validated and validated == tested:
        raise ValueError(
            f'{found[0]} would choose on the test set, since the validation '
            'reads the same images: put a val.json beside train.json '
            '(custom.py --val-fraction makes one), name another '
            'val_dataloader.dataset.ann_file, or leave it out: the last '
            'epoch is the result'
        )


def _images_of(loader: Any) -> list[dict[str, Any]]:
    """Describes which images a loader's config reads."""
    if not isinstance(loader, Mapping):
        return []
    described = []
    for dataset in innermost_datasets(loader):
        facts = {k: v for k, v in dataset.items() if k not in SHOWING}
        if isinstance(facts.get('ann_file'), str):
            path = os.path.join(
                facts.get('data_root') or '', facts['ann_file']
            )
            # How the file is loaded may differ; which images it lists not.
            facts = {
                'file': os.path.realpath(path),
                'indices': facts.get('indices'),
            }
        described.append(facts)
    return described


@HOOKS.register_module()
class NumericsHook(Hook):
    """Warns of learnable scales that leave a range.

    Losses that are not finite are the :class:`GuardedOptimWrapper`'s.

    The learnable scales of the logit compensation start at 1. One out of
    range shrinks a class's logits to nothing, lets single images
    dominate, or, below 0, turns the class's meaning around. Every 50 steps,
    each that left 0.1 to 10 is named in a warning once; training goes on.
    """

    def __init__(self) -> None:
        self._warned: set[tuple[str, int]] = set()

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Checks the scales, which waits for the GPU."""
        if self.every_n_train_iters(runner, INTERVAL):
            self.after_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Checks the scales at the end."""
        model = unwrap_model(runner.model)
        scales = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if name.split('.')[-1] in SCALES
        }
        if not scales:
            return
        names = list(scales)
        values = torch.stack([*scales.values()]).cpu()  # Of shape (S, K).
        strange = ~((values >= LOW) & (values <= HIGH))
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        classes = metainfo.get('classes')
        found = []
        for row, k in strange.nonzero().tolist():
            if (names[row], k) not in self._warned:
                self._warned.add((names[row], k))
                label = classes[k] if classes else f'class {k}'
                found.append(f'{names[row]} of {label}: {values[row, k]:.3g}')
        if found:
            runner.logger.warning(
                f'learnable scales left the range {LOW} to {HIGH} '
                f'by step {runner.iter + 1}: {"; ".join(found)}. A smaller '
                "learning rate or loss_cls.compensation='statistics' keeps "
                'them nearer to 1'
            )


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
        last = (
            runner.epoch >= runner.max_epochs
            or runner.iter >= runner.max_iters
            or any(
                isinstance(hook, EarlyStoppingHook) for hook in runner.hooks
            )
        )
        if batch_idx == 0 and last:
            model = unwrap_model(runner.model)
            self._digest = weights_digest(model.state_dict())

    @master_only
    def after_test_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any
    ) -> None:
        """Notes which weights are tested, on single views."""
        model = unwrap_model(runner.model)
        if batch_idx == 0 and not isinstance(model, BaseTTAModel):
            self._digest = weights_digest(model.state_dict())

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
            _images_of(runner.cfg.get(f'{split}_dataloader'))
            for split in ('val', 'test')
        )
        if not val or val == test or metric.evaluated is None:
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
        path = Path(runner.work_dir, FILE_NAME)
        write_thresholds(path, chosen)
        gain = gain_text(chosen, scores, targets)
        return f'\n{gain}\nThresholds for predict.py: {path}'
