"""Saves checkpoints that no kill can harm, and loads none of another model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import has_labels, read_labels
from ltml_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.hooks.resume_state import flat_schedulers, unwrap_model
from ltml_mm.evaluation import GroupedAveragePrecision
from ltml_mm.files import AtomicFileBackend, write_text
from ltml_mm.models.fork.branches import BRANCHES, plain_name

#: Under this name the message hub in a checkpoint lists what is removed once
#: the checkpoint is written: a run that is killed before does it on resume.
OUTDATED = 'outdated_ckpts'
#: Under this one, the checkpoint of a run that was stopped inside an epoch.
INTERIM = 'interim_ckpt'

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


class DeferredRemoval(AtomicFileBackend):
    """A backend that only collects what it is asked to remove."""

    def __init__(self) -> None:
        self.pending: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        """Remembers a file that is to be removed."""
        self.pending.append(str(filepath))

    def remove_pending(self, keep: set[str | None]) -> None:
        """Removes the files, but those written anew since."""
        for path in self.pending:
            if is_main_process() and path not in keep and self.isfile(path):
                super().remove(path)
        self.pending.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """A ``CheckpointHook`` that never leaves a run without a checkpoint.

    The stock hook with the file backend ``whole_files``, which writes
    atomically and a SHA-256 beside each file. Besides, this one moves the
    pointer ``last_checkpoint`` atomically, and removes old files and best
    checkpoints last, where the stock hook removes first. Temporary files of
    a killed run are removed when the next one starts.

    Args:
        **kwargs: Those of MMEngine's ``CheckpointHook``. ``out_dir`` must be
            a folder of this machine.

    Raises:
        ValueError: ``out_dir`` is remote, or ``backend_args`` or
            ``file_client_args`` are given.
    """

    #: Of a key of save_best that tells no rule.
    _rule_error: ValueError | None = None

    def __init__(self, **kwargs: Any) -> None:
        names = ('backend_args', 'file_client_args')
        remote = '://' in str(kwargs.get('out_dir'))
        if remote or any(kwargs.get(name) is not None for name in names):
            raise ValueError(
                'SafeCheckpointHook writes to local folders only, got '
                f'{kwargs}; for other storage use '
                "default_hooks.checkpoint.type='CheckpointHook'"
            )
        kwargs['backend_args'] = {'backend': 'whole_files'}
        super().__init__(**kwargs)
        self._saved_step: int | None = None

    def _init_rule(self, rules: Any, key_indicators: Any) -> None:
        """Keeps the error of a key without a rule until the keys are known."""
        try:
            super()._init_rule(rules, key_indicators)
        except ValueError as error:
            self._rule_error = error
            super()._init_rule(['greater'], key_indicators)

    def before_train(self, runner: Runner) -> None:
        """Finds the folder, and removes what a killed run left in it.

        Raises:
            ValueError: See :func:`check_monitored`; or a ``rule`` is missing.
        """
        check_monitored(runner)
        if self._rule_error is not None:
            raise self._rule_error
        super().before_train(runner)
        saving = [h for h in runner.hooks if isinstance(h, CheckpointHook)]
        # This one has the last step checked; a stock one does not.
        own = all(isinstance(hook, SafeCheckpointHook) for hook in saving)
        if hasattr(runner.optim_wrapper, 'reads_late'):
            runner.optim_wrapper.reads_late = own
        self._saved_step = runner.iter  # What was loaded is saved.
        # The stock hook asks it to remove old files before it writes new ones.
        self.file_backend = DeferredRemoval()
        for name in runner.message_hub.runtime_info.get(OUTDATED, ()):
            self._remove(name)
        self._remove_outdated(runner)
        if is_main_process():
            for pattern in ('.*.pth*.tmp', '.last_checkpoint.*.tmp'):
                for path in Path(self.out_dir).glob(pattern):
                    path.unlink(missing_ok=True)

    def before_val(self, runner: Runner) -> None:
        """Has the last step checked."""
        _check_last_step(runner)

    def after_train(self, runner: Runner) -> None:
        """Has the last step checked; otherwise as the stock hook."""
        _check_last_step(runner)
        super().after_train(runner)

    def save_now(self, runner: Runner, by_epoch: bool) -> str:
        """Saves a checkpoint, if there is none of this step, and returns it.

        All processes must call it. One inside an epoch, where checkpoints
        are those of epochs, is called ``iter_37.pth`` and removed after the
        next one is written.
        """
        step = runner.iter if by_epoch else runner.iter + 1
        if not self.holds(step) and by_epoch == self.by_epoch:
            self._save_checkpoint(runner)
        elif not self.holds(step):
            meta = dict(epoch=runner.epoch, iter=step)
            self._write(runner, f'iter_{step}.pth', meta, interim=True)
        return str(self.last_ckpt)

    def holds(self, step: int) -> bool:
        """Whether the newest checkpoint is that of so many steps."""
        return self._saved_step == step

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        # As the stock hook's, but that it removes before it writes.
        if self.max_keep_ckpts > 0:
            kept = self.keep_ckpt_ids
            if not kept or kept[-1] != step:
                if len(kept) == self.max_keep_ckpts:
                    self._remove(self.filename_tmpl.format(kept.popleft()))
                kept.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        self._write(runner, self.filename_tmpl.format(step), meta)

    def _write(
        self, runner: Runner, name: str, meta: dict, interim: bool = False
    ) -> None:
        _gather(runner)
        if superfluous := runner.message_hub.pop_info(INTERIM):
            self._remove(superfluous)
        if interim:
            runner.message_hub.update_info(INTERIM, name)
        self.last_ckpt = str(Path(self.out_dir, name))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        outdated = [Path(path).name for path in self.file_backend.pending]
        runner.message_hub.update_info(OUTDATED, outdated)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        # The pointer before the removal: it may name what is to be removed.
        if is_main_process():
            pointer = Path(runner.work_dir, 'last_checkpoint')
            write_text(pointer, self.last_ckpt)
        self._saved_step = meta['iter']
        self._remove_outdated(runner)

    def _save_best_checkpoint(
        self, runner: Runner, metrics: Mapping[str, Any]
    ) -> None:
        if not self.save_best:
            return
        _check_keys(self.save_best, [*metrics])  # Not all are known before.
        _gather(runner)
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated(runner)

    def _remove(self, name: str) -> None:
        self.file_backend.remove(Path(self.out_dir, name))

    def _remove_outdated(self, runner: Runner) -> None:
        info = runner.message_hub.runtime_info
        best = (v for k, v in info.items() if k.startswith('best_ckpt'))
        self.file_backend.remove_pending({self.last_ckpt, *best})


def check_monitored(runner: Runner) -> None:
    """Checks the validation before the first step.

    Raises:
        ValueError: ``save_best`` of a hook, or ``monitor`` of a hook or a
            schedule, asks for a metric that no validation will give; names
            those that there are. Or no validation image has a label.
    """
    wanted: dict[str, str] = {}
    for part in (*runner.hooks, *flat_schedulers(runner)):
        asked = [*(getattr(part, 'save_best', None) or ())]
        for key in [*asked, getattr(part, 'monitor', None)]:
            if key is not None:
                wanted[key] = 'save_best' if asked else type(part).__name__
    if wanted and runner.val_loop is None:
        raise ValueError(
            f'{wanted.popitem()[1]} chooses by a validation, and this run '
            'has none: leave it out of the config, or let the run validate'
        )
    _check_keys(wanted, _metric_keys(runner))


def _metric_keys(runner: Runner) -> list[str]:
    """Lists what validations give; nothing where nobody knows before."""
    keys: list[str] = []
    loop = runner.val_loop
    for metric in loop.evaluator.metrics if loop is not None else ():
        dataset = loop.dataloader.dataset
        if not isinstance(metric, GroupedAveragePrecision):
            if not (others := _stock_keys(metric)):
                return []
            keys += others
            continue
        if not has_labels(dataset):
            return []
        classes = ClassStatistics.from_metainfo(metric.dataset_meta or {})
        counts = read_labels(dataset).counts(classes.num_classes)
        names = ['']
        if hasattr(unwrap_model(runner.model), 'branch_logits'):
            names += BRANCHES if metric.branches else ()
        # Evaluates one invented image that has every label of the set, to
        # learn the keys. A report that is not None silences the warning of
        # absent classes.
        probe = copy(metric)
        probe.report = {}
        scores = dict.fromkeys(names, np.zeros(len(counts)))
        found = probe.compute_metrics([(scores, np.minimum(counts, 1))])
        keys += [f'{metric.prefix}/{key}' for key in found]
    return keys


def _stock_keys(metric: Any) -> list[str]:
    """Lists what another metric gives for one invented image, if it runs."""
    probe = copy(metric)
    probe.results = []
    count = len((metric.dataset_meta or {}).get('classes') or ())
    label, scores = torch.tensor([0]), torch.eye(1, count)[0]
    sample = dict(gt_label=label, gt_score=scores, num_classes=count)
    sample |= dict(pred_label=label, pred_score=scores)
    try:
        probe.process({}, [sample])
        found = probe.compute_metrics(probe.results)
    # A metric of any kind, of which the run itself will tell.
    except Exception:
        return []
    prefix = f'{metric.prefix}/' if metric.prefix else ''
    return [prefix + key for key in found]


def _check_keys(wanted: Iterable[str], keys: Sequence[str]) -> None:
    for key in wanted:
        if keys and key not in ('auto', *keys):
            raise ValueError(
                f'no validation gives {key!r}, which save_best of the '
                'checkpoint hook or monitor of a hook or schedule asks for; '
                f'it gives {", ".join(keys)}'
            )


def _check_last_step(runner: Runner) -> None:
    getattr(runner.optim_wrapper, 'check_last_step', lambda: None)()


def _gather(runner: Runner) -> None:
    _check_last_step(runner)
    for hook in runner.hooks:
        if isinstance(hook, ExactResumeHook):
            hook.gather(runner)


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Checks that a checkpoint fits the model key by key.

    MMEngine loads what fits and logs the rest. For ``--resume`` and a test
    every key has to fit. With ``load_from`` heads may be others, those of
    another number of classes, say; but another backbone is refused: most of
    its weights are missing or one has another shape.

    Args:
        whole (bool): Whether every key has to fit for ``load_from``, too, as
            in a test. Defaults to False.
    """

    # Before a hook that changes the loaded weights.
    priority = 'VERY_HIGH'

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the names and shapes of a checkpoint with the model's.

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
        if problems := compare(expected, found):
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
    """Describes, by name, how a checkpoint's names and shapes differ."""
    differences = []
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            differences.append(f'{key} is missing')
        elif key not in expected:
            differences.append(f'{key} is unexpected')
        else:
            differences += _reshaped(key, expected[key], found[key])
    return differences


def _reshaped(key: str, expected: Any, found: Any) -> list[str]:
    # A checkpoint from elsewhere may hold other things than tensors.
    old, new = (getattr(v, 'shape', None) for v in (expected, found))
    if old == new:
        return []
    old, new = (v if v is None else tuple(v) for v in (old, new))
    return [f'{key} has shape {new} instead of {old}']


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
        elif not RESIZED.search(name):
            changed += _reshaped(key, expected[name], found[key])
    return changed + (missing if 2 * len(missing) > len(names) else [])
