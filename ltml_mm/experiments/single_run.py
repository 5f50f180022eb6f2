"""One run of a comparison, in a process of its own: train, test, result.

``python -m ltml_mm.experiments.single_run FOLDER`` does what
``FOLDER/run.json`` says and writes ``FOLDER/result.json`` at its very end.
Killed and started again, it resumes from its last checkpoint.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ltml_mm.apis import test, train
from ltml_mm.apis.checkpoint import (
    find_whole_checkpoint,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.merge import training_batches
from ltml_mm.apis.stock_config import stock_config
from ltml_mm.experiments.cached_trunk import add_cached_flip, use_cache
from ltml_mm.experiments.results import RESULT
from ltml_mm.experiments.run_config import (
    Plan,
    planned_digest,
    read_plan,
    set_steps,
)
from ltml_mm.experiments.run_lock import alone
from ltml_mm.files import write_json
from ltml_mm.models.weight_averaging import (
    branch_drift,
    has_norms,
    merge_branches,
    merged_modules,
    reestimate_norms,
)


def run(folder: Path) -> None:
    """Makes one run, where it is not finished already.

    Args:
        folder: Of the run, with its ``run.json``.

    Raises:
        ValueError: What the run depends on has changed since it was planned.
    """
    plan = read_plan(folder)
    with alone(folder):
        if (folder / RESULT).exists():
            return
        _check_unchanged(folder, plan)
        work = folder / 'work'
        steps, images = _train(plan, work)
        result = dict(
            row=plan.row,
            seed=plan.seed,
            set=plan.set,
            **_test(plan, work, steps),
            steps=steps,
            images_per_step=images,
            seconds=_seconds(work),
            device=_device_name(),
            config_digest=plan.config_digest,
        )
        _check_unchanged(folder, plan)
        write_json(folder / RESULT, result)
        if not plan.keep_checkpoints:
            for path in [*work.glob('*.pth*'), work / 'last_checkpoint']:
                path.unlink(missing_ok=True)


def _check_unchanged(folder: Path, plan: Plan) -> None:
    """Refuses a result that would stand for other files than were used."""
    if planned_digest(plan) != plan.config_digest:
        raise ValueError(
            f'{plan.config}, the annotations, the initial weights or the '
            f'software changed after {folder} was planned: undo the change or '
            'remove that folder, then start the comparison again'
        )


def _train(plan: Plan, work: Path) -> tuple[int, int]:
    """Trains, or resumes; returns steps and images per step."""
    options = [*plan.options, *plan.overrides, f'randomness.seed={plan.seed}']
    args = [plan.config, '--work-dir', str(work), '--no-validate']
    if find_whole_checkpoint(work) is not None:
        args.append('--resume')
    cfg = train.training_config(
        train.parse_args([*args, '--cfg-options', *options])
    )
    set_steps(cfg, plan)
    _use_cache(cfg, plan)
    cfg.experiment_name = f'{plan.row} {plan.seed}'
    runner = Runner.from_cfg(cfg)
    before, start = _seconds(work), time.perf_counter()
    try:
        runner.train()
    finally:
        # Over all starts of this run, but for those that were killed.
        spent = before + time.perf_counter() - start
        write_json(work / 'seconds.json', spent)
    loader = cfg.train_dataloader
    return runner.iter, loader.batch_size * len(loader.sampler.streams)


def _seconds(work: Path) -> float:
    path = work / 'seconds.json'
    return json.loads(path.read_text()) if path.exists() else 0.0


def _test(plan: Plan, work: Path, steps: int) -> dict[str, Any]:
    """Tests all variants; returns metrics, classes and drift."""
    path = find_whole_checkpoint(work)
    checkpoint = None if path is None else read_checkpoint(path)
    if checkpoint is None or checkpoint['meta']['iter'] != steps:
        raise ValueError(f'{work} holds no checkpoint of the last step')
    reports = {
        variant: _report(plan, work, str(path), variant)
        for variant in ('fused', 'flip')
    }
    drift = learned = None
    state_dict = checkpoint['state_dict']
    if any(key.startswith('heads.') for key in state_dict):
        learned, drift = compensation(state_dict), branch_drift(state_dict)
        reports['probs'] = _report(plan, work, str(path), 'probs')
        reports |= _test_merged(plan, work, checkpoint)
    return {**collect(reports), 'drift': drift, 'compensation': learned}


def _test_merged(
    plan: Plan, work: Path, checkpoint: Mapping[str, Any]
) -> dict[str, dict]:
    """Tests the average of the branches, as it is and with new statistics."""
    path = work / 'merged.pth'
    meta = {'dataset_meta': checkpoint['meta']['dataset_meta']}
    merged = merge_branches(checkpoint['state_dict'])
    torch.save({'state_dict': merged, 'meta': meta}, path)
    reports = {'merged': _report(plan, work, str(path), 'merged')}
    modules = merged_modules(checkpoint['state_dict'])
    if _reestimate(plan, work, path, modules):
        reports['merged_bn'] = _report(plan, work, str(path), 'merged_bn')
    return reports


def compensation(state_dict: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the scales and biases that the logits of each class have.

    Args:
        state_dict: Of a two-branch network.

    Returns:
        dict[str, list[float]]: By branch and name, such as
        ``uniform.pos_scale``; empty without compensation.
    """
    names = ('pos_scale', 'pos_bias', 'neg_scale', 'neg_bias')
    return {
        key.removeprefix('loss_cls.'): value.tolist()
        for key, value in state_dict.items()
        if key.startswith('loss_cls.') and key.endswith(names)
    }


def _report(plan: Plan, work: Path, checkpoint: str, variant: str) -> dict:
    """Tests one variant; returns the class report."""
    folder = work / variant
    runner = Runner.from_cfg(_test_config(plan, folder, checkpoint, variant))
    runner.test()
    # The next one needs the card, and the Runner holds itself.
    del runner
    gc.collect()
    torch.cuda.empty_cache()
    return json.loads((folder / 'test_class_report.json').read_text())


def _test_config(
    plan: Plan, folder: Path, checkpoint: str, variant: str
) -> Config:
    options = [*plan.options, *plan.overrides]
    if variant == 'probs':
        options.append('model.fuse=probs')
    args = [plan.config, checkpoint, '--work-dir', str(folder)]
    if variant == 'flip' and plan.cache is None:
        args.append('--tta')
    if options:
        args += ['--cfg-options', *options]
    cfg = test.test_config(test.parse_args(args))
    cfg.test_dataloader.persistent_workers = False
    stock = stock_config(cfg) if variant.startswith('merged') else None
    _use_cache(cfg, plan)
    if stock is not None:
        _use_stock_model(cfg, stock, plan)
    if variant == 'flip' and plan.cache is not None:
        add_cached_flip(cfg, plan.cache)
    cfg.experiment_name = f'{plan.row} {plan.seed} {variant}'
    return cfg


def _use_stock_model(cfg: Config, stock: Config, plan: Plan) -> None:
    """Lets a test evaluate the network that merge_branches.py writes."""
    stock.model.backbone.type = cfg.model.backbone.type
    cfg.model = stock.model
    if plan.cache is None:
        cfg.data_preprocessor = stock.data_preprocessor


def _reestimate(
    plan: Plan, work: Path, merged: Path, modules: list[str]
) -> bool:
    """Measures BatchNorm anew, as merge_branches.py does with all images.

    Returns False where there is none.
    """
    cfg = _test_config(plan, work / 'merged_bn', str(merged), 'merged_bn')
    cfg.experiment_name += ' statistics'
    cfg.load_from = None
    model = Runner.from_cfg(cfg).model
    checkpoint = read_checkpoint(merged)
    load_weights(model, checkpoint['state_dict'], merged)
    if not has_norms(model, modules):
        return False
    batches = training_batches(cfg, sys.maxsize, plan.seed)
    reestimate_norms(model, batches, modules)
    checkpoint['state_dict'] = {
        key: value.cpu() for key, value in model.state_dict().items()
    }
    torch.save(checkpoint, merged)
    return True


def _use_cache(cfg: Config, plan: Plan) -> None:
    if plan.cache is not None:
        use_cache(cfg, plan.cache, plan.views)


def collect(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Sorts class reports into the metrics of every variant.

    Args:
        reports: Class reports of tests by variant. Figures by branch in the
            first become variants of their own.

    Returns:
        dict[str, Any]: ``metrics`` by variant, and ``classes``.
    """
    metrics: dict[str, dict[str, float]] = {}
    classes: dict[str, dict[str, Any]] = {}
    for variant, report in reports.items():
        for key, value in report['summary'].items():
            name, figure = _variant_of(key, variant)
            if name is not None:
                metrics.setdefault(name, {})[figure] = value
        for entry in report['classes']:
            found = classes.setdefault(
                entry['name'],
                dict(
                    name=entry['name'],
                    count=entry['train_images'],
                    group=entry['group'],
                    AP={},
                ),
            )
            for key in entry:
                name, figure = _variant_of(key, variant)
                if name is not None and figure == 'AP':
                    found['AP'][name] = entry[key]
    return {'metrics': metrics, 'classes': [*classes.values()]}


def _variant_of(key: str, variant: str) -> tuple[str | None, str]:
    branch, separator, figure = key.rpartition('/')
    if not separator:
        return variant, figure
    # By branch the plain test alone counts.
    return (branch if variant == 'fused' else None), figure


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'CPU ({threads} thread{"s" * (threads > 1)})'


if __name__ == '__main__':
    run_tool(lambda: run(Path(sys.argv[1])))
