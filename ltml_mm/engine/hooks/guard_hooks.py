"""Hooks that refuse, limit or tell of what spoils a training."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.engine.hooks.checkpoint_hooks import (
    SafeCheckpointHook,
    check_monitored,
)
from ltml_mm.engine.hooks.resume_state import flat_schedulers, unwrap_model

#: The learnable scales among the parameters of a loss.
SCALES = ('pos_scale', 'neg_scale')
#: The range that they should not leave, and how often it is looked at.
LOW, HIGH, INTERVAL = 0.1, 10.0, 50
#: The schedulers that serve as warm-ups.
WARM_UPS = (LinearParamScheduler, ConstantParamScheduler)
#: What in a dataset's config says how its images are shown, not which.
SHOWING = (
    'image_cache', 'lazy_init', 'metainfo', 'pipeline', 'serialize_data',
)  # fmt: skip
#: MMEngine's "end" of a scheduler that has none.
NO_END = int(1e9)


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
                what is chosen would be chosen on the test set. Or see
                :func:`check_monitored`.
        """
        if not any(isinstance(h, SafeCheckpointHook) for h in runner.hooks):
            check_monitored(runner)  # It does so by itself.
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
        drops = [
            (s.begin + milestone) * (len(loader) if s.by_epoch else 1)
            for s in schedulers
            if isinstance(s, MultiStepParamScheduler)
            for milestone in s.milestones
        ]
        drop = min(drops, default=runner.max_iters)
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
    validated = images_of(runner.cfg.get('val_dataloader'))
    tested = images_of(runner.cfg.get('test_dataloader'))
    if found and share_images(validated, tested):
        raise ValueError(
            f'{found[0]} would choose on the test set, since the validation '
            'reads the same images: put a val.json beside train.json '
            '(custom.py --val-fraction makes one), name another '
            'val_dataloader.dataset.ann_file, or leave it out: the last '
            'epoch is the result'
        )


def images_of(loader: Any) -> list[dict[str, Any]]:
    """Describes which images a loader's config reads."""
    if not isinstance(loader, Mapping):
        return []
    described = []
    for dataset in innermost_datasets(loader):
        facts = {k: v for k, v in dataset.items() if k not in SHOWING}
        if isinstance(facts.get('ann_file'), str):
            root = facts.get('data_root') or ''
            path = os.path.join(root, facts['ann_file'])
            # How the file is loaded may differ; which images it lists not.
            facts = {
                'file': os.path.realpath(path),
                'indices': facts.get('indices'),
            }
        described.append(facts)
    return described


def share_images(some: list[dict], others: list[dict]) -> bool:
    """Whether two sets share images, by :func:`images_of`, and by content."""
    return any(a == b or _overlap(a, b) for a in some for b in others)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    files = one.get('file', ''), other.get('file', '')
    if not all(map(os.path.isfile, files)):
        return False
    if files[0] != files[1] and not filecmp.cmp(*files, shallow=False):
        return False
    parts = [part['indices'] for part in (one, other)]
    if None in parts:
        return True
    first, second = (
        set(range(part) if isinstance(part, int) else part) for part in parts
    )
    # Negative ones count from the end, and a range of them is empty.
    signed = any(min(part, default=-1) < 0 for part in (first, second))
    return signed or bool(first & second)


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
        self._rate = float(max(runner.optim_wrapper.get_lr()['lr']))
        self._powers = []

    @torch.no_grad()
    def _measure(self, head: nn.Module, args: tuple) -> None:
        if not head.training:  # A validation has no loss to weaken.
            return
        feats: Any = args
        while not isinstance(feats, Tensor):
            feats = feats[-1]
        feats = feats.to(torch.promote_types(feats.dtype, torch.float32))
        feats = feats.flatten(2).mean(2) if feats.dim() > 2 else feats
        self._powers = [*self._powers[-1:], feats.square().sum(1).mean()]

    def _weaken(self, loss: Any, args: tuple, output: Tensor) -> Tensor:
        classes = 1 if loss.reduction == 'sum' else args[0].shape[1]
        power = torch.stack(self._powers).mean()
        all_reduce(power, 'mean')  # One lambda for all processes.
        steepness = self._rate * loss.loss_weight * power / classes
        return output * (self.limit / steepness).clamp(max=1)


@HOOKS.register_module()
class CompensationLimitHook(Hook):
    """Holds the learnable scales of the logit compensation up.

    They know the label: the cheapest way to a smaller loss is a scale that
    shrinks to 0, whatever the logits. See "Stability" in docs/method.md.

    Args:
        least: Where a scale that is lower is set to, after each step.
    """

    def __init__(self, least: float = 0.3) -> None:
        if not 0 < least <= 1:
            raise ValueError(f'least must be in (0, 1], got {least!r}')
        self.least = least
        self._held: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Finds them; a loss without such scales stays as it is."""
        self._held = [*_scales(runner.model).values()]

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Holds them."""
        for scale in self._held:
            scale.clamp_(min=self.least)


def _scales(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in unwrap_model(model).named_parameters()
        if name.split('.')[-1] in SCALES
    }


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
            self.after_train(runner, 1)

    def after_train(self, runner: Runner, uncounted: int = 0) -> None:
        """Checks the scales, at the end or while a step is not counted."""
        scales = _scales(runner.model)
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
                f'by step {runner.iter + uncounted}: {"; ".join(found)}. A '
                "smaller learning rate or loss_cls.compensation='statistics' "
                "keeps them nearer 1, dict(type='CompensationLimitHook') in "
                'custom_hooks above 0.3'
            )
