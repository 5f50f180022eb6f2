"""One run: ``python -m ltml_mm.experiments.single_run FOLDER``.

Killed and started again, it resumes from its last checkpoint.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from ltml_cli.result_parsers import PLAIN
from ltml_mm.apis.checkpoint import (
    find_whole_checkpoint,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.config import fit_to_data, load_config
from ltml_mm.apis.model import build_model, pick_device, scope_of
from ltml_mm.apis.norm_statistics import remeasure_checkpoint, training_batches
from ltml_mm.apis.stock_config import stock_config
from ltml_mm.apis.test import add_flip_tta, set_checkpoint
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.experiments import runs
from ltml_mm.experiments.rows import chooses
from ltml_mm.files import write_json
from ltml_mm.models import weight_averaging
from ltml_mm.models.fork.branches import BRANCHES

#: What a training leaves at its end, ahead of the tests.
TRAINED = 'trained.json'


def make_run(folder: Path) -> None:
    """Trains and tests ``config.py``, and writes ``result.json`` at the end.

    Waits for another process that makes the run. One that is finished but for
    a test that was not asked for then is tested; where its checkpoint is gone
    it is trained again, which gives the same weights.

    Raises:
        ValueError: A file that the run depends on has changed since the
            comparison started.
    """
    facts = json.loads((folder / runs.RUN).read_text())
    run = runs.Run(folder, **facts)
    # The system frees the lock when the process ends, however it ends.
    with FileLock(folder / 'lock'):
        variants = run.missing()
        if not variants:
            return
        cfg = load_config(folder / runs.CONFIG)
        _check_unchanged(cfg, run)
        tell = _Progress(folder, cfg, variants)
        trained = _trained(cfg, folder)
        if trained is None:
            steps, seconds = _train(deepcopy(cfg), tell)
            trained = {'steps': steps, 'seconds': seconds}
            write_json(folder / TRAINED, trained)
        found = _test(cfg, run.seed, trained['steps'], variants, tell)
        old: dict[str, Any] = {}
        if (folder / runs.RESULT).exists():
            old = json.loads((folder / runs.RESULT).read_text())
            # Of its own training; it need not have been measured again.
            trained['seconds'] = old.get('seconds')
            found['metrics'] = {**old['metrics'], **found['metrics']}
            if PLAIN not in variants:
                found['classes'] = old['classes']
        loader = cfg.train_dataloader
        cuda = torch.cuda.is_available()
        kept = ('variants', 'keep_checkpoints')
        result = dict(
            **{k: v for k, v in facts.items() if k not in kept},
            **found,
            **trained,
            tested=[*(old.get('tested') or old.get('metrics', ())), *variants],
            images_per_step=loader.batch_size * len(loader.sampler.streams),
            device=torch.cuda.get_device_name() if cuda else 'CPU',
        )
        _check_unchanged(cfg, run)
        write_json(folder / runs.RESULT, result)
        if not run.keep_checkpoints:
            work = Path(cfg.work_dir)
            for path in [*work.glob('*.pth*'), work / 'last_checkpoint']:
                path.unlink(missing_ok=True)


class _Progress(Hook):
    """Writes how far a run is into its folder, once a second at most.

    An image that is trained on counts as three that are tested, for the
    backward pass.
    """

    priority = 'LOWEST'

    def __init__(
        self, folder: Path, cfg: Config, variants: Sequence[str]
    ) -> None:
        self.path = folder / runs.PROGRESS
        self.time = 0.0
        loader = cfg.train_dataloader
        self.batch = loader.batch_size * len(loader.sampler.streams)
        with DefaultScope.overwrite_default_scope(scope_of(cfg)):
            own = innermost_dataset(cfg.test_dataloader)
            tested = len(DATASETS.build({**own, 'pipeline': []}))
        # The work of every part, in order.
        self.parts = {'training': 0.0}
        for variant in variants:
            self.parts[f'test {variant}'] = tested * (1 + (variant == 'flip'))
        self.part = 'training'

    def before_train(self, runner: Runner) -> None:
        """Learns how long the training is."""
        self.parts['training'] = 3 * runner.max_iters * self.batch

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Tells of a step."""
        self._tell((runner.iter + 1) / runner.max_iters)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kw: Any
    ) -> None:
        """Tells of a batch of a test."""
        self._tell((batch_idx + 1) / len(runner.test_dataloader))

    def _tell(self, share: float) -> None:
        if time.monotonic() - self.time < 1:
            return
        self.time = time.monotonic()
        names = [*self.parts]
        before = names[: names.index(self.part)]
        done = sum(self.parts[name] for name in before)
        done += share * self.parts[self.part]
        part = done / max(1, sum(self.parts.values()))
        write_json(self.path, {'doing': self.part, 'done': round(part, 4)})


def _trained(cfg: Config, folder: Path) -> dict[str, Any] | None:
    """Reads what a training left that ended; None where it is to be made."""
    try:
        trained = json.loads((folder / TRAINED).read_text())
    except FileNotFoundError:
        return None
    whole = find_whole_checkpoint(cfg.work_dir)
    if (
        whole is None
        or read_checkpoint(whole)['meta']['iter'] != trained['steps']
    ):
        return None
    return trained


def _check_unchanged(cfg: Config, run: runs.Run) -> None:
    """Refuses a result that would stand for other files than were used."""
    if runs.config_hash(cfg) != run.config_hash:
        raise ValueError(
            f'{run.folder / runs.CONFIG}, the annotations, the initial '
            'weights or the software changed after the run was planned: undo '
            f'the change or remove {run.folder}, then start the comparison '
            'again'
        )


def _train(cfg: Config, tell: Hook) -> tuple[int, float | None]:
    """Trains or resumes; returns steps and, if not resumed, seconds."""
    checkpoint = find_whole_checkpoint(cfg.work_dir)
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, checkpoint
    fit_to_data(cfg)
    runner = RUNNERS.build(cfg)
    runner.register_hook(tell)
    start = time.perf_counter()
    runner.train()
    return runner.iter, None if checkpoint else time.perf_counter() - start


def _test(
    cfg: Config,
    seed: int,
    steps: int,
    variants: Sequence[str],
    tell: _Progress,
) -> dict[str, Any]:
    """Tests the checkpoint of a training in the ways that are asked for."""
    path = find_whole_checkpoint(cfg.work_dir)
    checkpoint = None if path is None else read_checkpoint(path)
    if checkpoint is None or checkpoint['meta']['iter'] != steps:
        raise ValueError(f'{cfg.work_dir} has no checkpoint of the last step')
    best = [*Path(cfg.work_dir).glob('best_*.pth')]
    if best and chooses(cfg):
        path = str(max(best, key=lambda p: p.stat().st_mtime_ns))
        checkpoint = read_checkpoint(path)
    weights = checkpoint['state_dict']
    drift = compensation = None
    if any(key.startswith('heads.') for key in weights):
        drift = weight_averaging.branch_drift(weights)
        compensation = {
            key.removeprefix('loss_cls.'): value.tolist()
            for key, value in weights.items()
            if key.startswith('loss_cls.')
            and key.endswith(('_scale', '_bias'))
        }
    reports: dict[str, Any] = {}
    for variant in variants:
        tell.part = f'test {variant}'
        # The plain test gives the branches' figures, too.
        test = PLAIN if variant in BRANCHES else variant
        if test in reports:
            continue
        source: Any = path
        if test == 'bn':
            if not weight_averaging.trained_norms(build_model(cfg)):
                continue  # There is nothing to measure.
            source = Path(cfg.work_dir, 'bn.pth')
            remeasure_checkpoint(cfg, str(path), source, seed=seed)
        elif test.startswith('merged'):
            source = _merge(cfg, checkpoint, seed, test)
            if source is None:
                continue
        reports[test] = _report(_build(cfg, source, test), tell)
    metrics: dict[str, dict[str, float]] = {}
    for variant, report in reports.items():
        for key, value in report['summary'].items():
            branch, _, figure = key.rpartition('/')
            # By branch the plain test alone counts.
            if not branch or variant == PLAIN:
                metrics.setdefault(branch or variant, {})[figure] = value
    shown = reports.get(PLAIN) or next(iter(reports.values()))
    return dict(
        metrics=metrics,
        classes=shown['classes'],
        drift=drift,
        compensation=compensation,
    )


def _build(cfg: Config, checkpoint: Any, variant: str) -> Runner:
    """Builds the Runner of a test."""
    cfg = deepcopy(cfg)
    cfg.work_dir = str(Path(cfg.work_dir) / variant)
    cfg.experiment_name += f' {variant}'
    set_checkpoint(cfg, str(checkpoint))
    cfg.test_dataloader.persistent_workers = False
    if variant == 'flip':
        add_flip_tta(cfg)
    elif variant == 'probs':
        # In either spelling; the model refuses both.
        cfg.model.pop('fuse', None)
        cfg.model.setdefault('fork', {})['fuse'] = 'probs'
    elif variant.startswith('merged'):
        stock = stock_config(cfg)
        cfg.model, cfg.data_preprocessor = stock.model, stock.data_preprocessor
    # The Runner before holds the card, and itself.
    gc.collect()
    torch.cuda.empty_cache()
    return RUNNERS.build(cfg)


def _report(runner: Runner, tell: Hook) -> dict[str, Any]:
    """Runs a test and returns its class report."""
    runner.register_hook(tell)
    runner.test()
    report = Path(runner.work_dir) / 'test_class_report.json'
    return json.loads(report.read_text())


def _merge(
    cfg: Config, checkpoint: Mapping[str, Any], seed: int, variant: str
) -> Path | None:
    """Writes the average of the branches, as it is or with new statistics.

    None for ``merged_bn`` where there are none to measure.
    """
    weights = checkpoint['state_dict']
    path = Path(cfg.work_dir) / f'{variant}.pth'
    merged = weight_averaging.merge_branches(weights)
    if variant == 'merged_bn':
        model = build_model(stock_config(cfg))
        load_weights(model, merged, path)
        modules = weight_averaging.merged_modules(weights)
        if not weight_averaging.norms_of(model, modules):
            return None
        model.to(pick_device())
        # As merge_branches.py does with all images.
        batches = training_batches(cfg, sys.maxsize, seed)
        weight_averaging.reestimate_norms(model, batches, modules)
        merged = {k: v.cpu() for k, v in model.state_dict().items()}
    meta = {'dataset_meta': checkpoint['meta']['dataset_meta']}
    torch.save({'state_dict': merged, 'meta': meta}, path)
    return path


if __name__ == '__main__':
    gc.freeze()  # As run_script does.
    run_tool(lambda: make_run(Path(sys.argv[1])))
