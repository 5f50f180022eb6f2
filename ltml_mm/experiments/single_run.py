"""One run: ``python -m ltml_mm.experiments.single_run FOLDER``.

Killed and started again, it resumes from its last checkpoint.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ltml_cli.result_parsers import PLAIN
from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint
from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.config import load_config
from ltml_mm.apis.merge import training_batches
from ltml_mm.apis.stock_config import stock_config
from ltml_mm.apis.test import add_flip_tta, set_checkpoint
from ltml_mm.experiments.rows import ONE_BRANCH_VARIANTS
from ltml_mm.experiments.runs import CONFIG, RESULT, RUN, Run, config_hash
from ltml_mm.files import write_json
from ltml_mm.models import weight_averaging


def make_run(folder: Path) -> None:
    """Trains and tests ``config.py``, and writes ``result.json`` at the end.

    Waits for another process that makes the run; a finished one stays.

    Args:
        folder: The run's folder, with its ``run.json`` and ``config.py``.

    Raises:
        ValueError: A file that the run depends on has changed since the
            comparison started.
    """
    facts = json.loads((folder / RUN).read_text())
    run = Run(folder, **facts)
    # The system frees the lock when the process ends, however it ends.
    with FileLock(folder / 'lock'):
        if (folder / RESULT).exists():
            return
        cfg = load_config(folder / CONFIG)
        _check_unchanged(cfg, run)
        steps, seconds = _train(deepcopy(cfg))
        loader = cfg.train_dataloader
        cuda = torch.cuda.is_available()
        result = dict(
            **facts,
            **_test(cfg, run.seed, steps),
            steps=steps,
            images_per_step=loader.batch_size * len(loader.sampler.streams),
            seconds=seconds,
            device=torch.cuda.get_device_name() if cuda else 'CPU',
        )
        _check_unchanged(cfg, run)
        write_json(folder / RESULT, result)
        if not run.keep_checkpoints:
            work = Path(cfg.work_dir)
            for path in [*work.glob('*.pth*'), work / 'last_checkpoint']:
                path.unlink(missing_ok=True)


def _check_unchanged(cfg: Config, run: Run) -> None:
    """Refuses a result that would stand for other files than were used."""
    if config_hash(cfg) != run.config_hash:
        raise ValueError(
            f'{run.folder / CONFIG}, the annotations, the initial weights or '
            'the software changed after the run was planned: undo the change '
            f'or remove {run.folder}, then start the comparison again'
        )


def _train(cfg: Config) -> tuple[int, float | None]:
    """Trains or resumes; returns steps and, if not resumed, seconds."""
    checkpoint = find_whole_checkpoint(cfg.work_dir)
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, checkpoint
    runner = RUNNERS.build(cfg)
    start = time.perf_counter()
    runner.train()
    return runner.iter, None if checkpoint else time.perf_counter() - start


def _test(cfg: Config, seed: int, steps: int) -> dict[str, Any]:
    """Tests the last checkpoint of a training in all ways."""
    path = find_whole_checkpoint(cfg.work_dir)
    checkpoint = None if path is None else read_checkpoint(path)
    if checkpoint is None or checkpoint['meta']['iter'] != steps:
        raise ValueError(f'{cfg.work_dir} has no checkpoint of the last step')
    weights = checkpoint['state_dict']
    reports = {v: _report(_build(cfg, path, v)) for v in ONE_BRANCH_VARIANTS}
    drift = compensation = None
    if any(key.startswith('heads.') for key in weights):
        drift = weight_averaging.branch_drift(weights)
        compensation = {
            key.removeprefix('loss_cls.'): value.tolist()
            for key, value in weights.items()
            if key.startswith('loss_cls.')
            and key.endswith(('_scale', '_bias'))
        }
        reports['probs'] = _report(_build(cfg, path, 'probs'))
        reports |= _test_merged(cfg, checkpoint, seed)
    metrics: dict[str, dict[str, float]] = {}
    for variant, report in reports.items():
        for key, value in report['summary'].items():
            branch, _, figure = key.rpartition('/')
            # By branch the plain test alone counts.
            if not branch or variant == PLAIN:
                metrics.setdefault(branch or variant, {})[figure] = value
    return dict(
        metrics=metrics,
        classes=reports[PLAIN]['classes'],
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
    elif variant == 'merged':
        stock = stock_config(cfg)
        cfg.model, cfg.data_preprocessor = stock.model, stock.data_preprocessor
    # The Runner before holds the card, and itself.
    gc.collect()
    torch.cuda.empty_cache()
    return RUNNERS.build(cfg)


def _report(runner: Runner) -> dict[str, Any]:
    """Runs a test and returns its class report."""
    runner.test()
    report = Path(runner.work_dir) / 'test_class_report.json'
    return json.loads(report.read_text())


def _test_merged(
    cfg: Config, checkpoint: Mapping[str, Any], seed: int
) -> dict[str, dict[str, Any]]:
    """Tests the average of the branches, as it is and with new statistics."""
    weights = checkpoint['state_dict']
    path = Path(cfg.work_dir) / 'merged.pth'
    merged = weight_averaging.merge_branches(weights)
    meta = {'dataset_meta': checkpoint['meta']['dataset_meta']}
    torch.save({'state_dict': merged, 'meta': meta}, path)
    runner = _build(cfg, path, 'merged')
    reports = {'merged': _report(runner)}
    modules = weight_averaging.merged_modules(weights)
    if weight_averaging.has_norms(runner.model, modules):
        # As merge_branches.py does with all images.
        batches = training_batches(cfg, sys.maxsize, seed)
        weight_averaging.reestimate_norms(runner.model, batches, modules)
        reports['merged_bn'] = _report(runner)
    return reports


if __name__ == '__main__':
    run_tool(lambda: make_run(Path(sys.argv[1])))
