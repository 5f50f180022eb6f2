"""Chooses thresholds: the logic of ``tools/analysis/thresholds.py``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import RUNNERS, DefaultScope
from mmpretrain.registry import DATASETS

from ltml_cli import parse
from ltml_cli.result_parsers import TRAINING, VALIDATION
from ltml_mm.apis.checkpoint import find_whole_checkpoint
from ltml_mm.apis.config import TEST, fit_to_data, load_config
from ltml_mm.apis.model import Network, load_network, scope_of
from ltml_mm.datasets.annotations import read_labels
from ltml_mm.datasets.two_stream import innermost_dataset, innermost_datasets
from ltml_mm.decisions import choice, thresholds
from ltml_mm.decisions.calibration import (
    calibration_report,
    fit_calibration,
    held_out_calibrated,
)
from ltml_mm.decisions.scores import Scores, build_loader, collect_scores
from ltml_mm.evaluation.report import table
from ltml_mm.experiments.drawing import GREY, GROUP_COLOURS, new_figure, png
from ltml_mm.files import file_sha256, write_bytes


def main(argv: Sequence[str] | None = None) -> None:
    """Chooses thresholds, writes and shows them."""
    args = parse('thresholds', argv)
    out = Path(args.out or Path(args.checkpoint).parent / thresholds.FILE_NAME)
    network = load_network(
        args.config, args.checkpoint, args.device, args.cfg_options
    )
    if args.out is None:
        _check_owner(out, network)
    found, chosen_on = _collect(network, args)
    chosen = choose_thresholds(
        found.scores,
        found.targets,
        network.class_info,
        {'name': network.path.name, 'sha256': network.digest},
        chosen_on,
        args.metric,
        args.calibration,
    )
    shown = [
        choice.threshold_table(chosen),
        choice.gain_text(chosen, found.scores, found.targets),
    ]
    if chosen.calibration is not None:
        known = found.targets, chosen.groups
        calibrated = held_out_calibrated(
            found.scores, *known, args.calibration
        )
        report = calibration_report(
            found.scores, calibrated, *known, found.branches
        )
        chosen = replace(
            chosen, calibration={**chosen.calibration, 'report': report}
        )
        shown.append(calibration_table(report))
        if args.figure:
            picture = png(reliability_figure, report, network.path.name)
            write_bytes(args.figure, picture)
    thresholds.write_thresholds(out, chosen)
    print('\n\n'.join([*shown, f'{chosen_on["note"]}.\n{out} written']))


def choose_thresholds(
    scores: np.ndarray,
    targets: np.ndarray,
    class_info: Sequence[Mapping[str, Any]],
    model: Mapping[str, str],
    chosen_on: Mapping[str, Any],
    metric: str = 'f1',
    calibration: str = 'platt',
) -> thresholds.Thresholds:
    """Chooses thresholds on all images, and measures them on held-out ones.

    Args:
        scores: As in :class:`Scores`.
        targets: Likewise.
        class_info: Name, group and training count of each class.
        model: As in :class:`Thresholds`.
        chosen_on: Likewise.
        metric: What is to be reached, see :func:`parse_metric`.
        calibration: How scores are calibrated, ``'none'`` for not at all.

    Raises:
        ValueError: No image has a label.
    """
    if not targets.any():
        raise ValueError(
            'no image has a label, so there is no threshold to choose'
        )
    aim = choice.parse_metric(metric)
    groups = [info['group'] for info in class_info]
    values, own = choice.choose(scores, targets, groups, aim)
    rows = [
        {
            **info,
            'threshold': float(values[k]),
            'own_threshold': None if np.isnan(own[k]) else float(own[k]),
        }
        for k, info in enumerate(class_info)
    ]
    images = {**chosen_on, 'images': len(targets)}
    chosen = thresholds.Thresholds(model, metric, images, rows)
    if calibration != 'none':
        fitted = fit_calibration(scores, targets, groups, calibration)
        chosen = replace(chosen, calibration=fitted)
    decided = choice.held_out_decisions(scores, targets, groups, aim)
    return choice.measure(chosen, decided, targets)


def _check_owner(path: Path, network: Network) -> None:
    """Refuses to replace the thresholds of another model."""
    if path.is_file():
        owner = thresholds.read_thresholds(path).model
        if owner['sha256'] != network.digest:
            raise ValueError(
                f'{path} holds the thresholds of {owner["name"]}: name '
                'another file with --out, or remove it'
            )


def _collect(
    network: Network, args: argparse.Namespace
) -> tuple[Scores, dict[str, Any]]:
    """Scores the images to choose on, and says what they are."""
    cfg, kind = network.cfg, args.on
    if kind == TRAINING:
        return cross_fit(args, network)
    loader = cfg.get('val_dataloader')
    if kind not in (None, VALIDATION):
        loader = deepcopy(cfg.get('test_dataloader') or loader)
        if loader is not None:
            innermost_dataset(loader).ann_file = str(Path(kind).resolve())
    reason = no_validation(cfg, loader)
    if reason is None:
        built = build_loader(cfg, loader)
        return collect_scores(network.model, built), describe_images(built)
    if kind is None:
        print(f'{reason}: --on {TRAINING} takes its place', flush=True)
        return cross_fit(args, network)
    raise ValueError(
        f'{reason}. Give other images: --on FILE.json, --on {TRAINING}, '
        'or a val.json beside train.json'
    )


def describe_images(loader: Any) -> dict[str, Any]:
    """Describes the validation images of a loader, for the file."""
    files = [_file_of(part) for part in innermost_datasets(loader)]
    found = {
        'kind': 'validation',
        'note': f'Chosen on {len(loader.dataset)} images that the network has '
        'not seen; the figures are cross-validated there',
    }
    if len(files) == 1 and files[0]:
        found |= {'file': files[0], 'sha256': file_sha256(files[0])}
    return found


def no_validation(
    cfg: Config, loader: Any = None, read_test: bool = True
) -> str | None:
    """Says why a set, by default the validation, cannot be chosen on.

    It does not exist, is the test set by path, by content, or by any image,
    or has images that are trained on. Without ``read_test`` the annotations
    of the test set are not read, and the path alone tells.
    """
    loader = loader or cfg.get('val_dataloader')
    if loader is None:
        return 'the config has no validation set'
    own = list(_parts(cfg, loader))
    paths = [path for path in map(_file_of, own) if path]
    if any(Path(path).name == TEST for path in paths):
        return f'{paths[0]} is the test set'
    others = {'training': 'train_dataloader', 'test': 'test_dataloader'}
    if not read_test:
        del others['test']
    for told, key in others.items():
        other, parts = cfg.get(key), []
        # Images that are not here cannot be those to choose on.
        with suppress(FileNotFoundError):
            parts = list(_parts(cfg, other)) if other is not None else []
        files = {_file_of(part) for part in parts} - {''}
        if told == 'test' or other is None:
            # The config of a merged network names no training images.
            name = TEST if told == 'test' else 'train.json'
            beside = (Path(path).with_name(name) for path in paths)
            files |= {str(path) for path in beside if path.is_file()}
        digests = {file_sha256(file) for file in files}
        for path in paths:
            if file_sha256(path) in digests:
                return f'{path} is the {told} set'
        common = _images(own) & _images(parts)
        if common:
            return (
                f'{len(common)} images of the validation set are in the '
                f'{told} set, {min(common)} for one'
            )
    return None


def _parts(cfg: Config, loader: Any) -> Iterator[Any]:
    """Builds the datasets of a loader, without their images."""
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for part in innermost_datasets(deepcopy(loader)):
            if isinstance(part, Mapping):
                part = {**part, 'pipeline': [], 'lazy_init': False}
                part = DATASETS.build(part)
            yield part


def _file_of(dataset: Any) -> str:
    path = getattr(dataset, 'ann_file', '')
    return os.path.realpath(path) if path and os.path.isfile(path) else ''


def _images(datasets: Sequence[Any]) -> set[str]:
    return {
        os.path.normpath(path)
        for dataset in datasets
        if hasattr(dataset, 'get_data_info')
        for index in range(len(dataset))
        if (path := dataset.get_data_info(index).get('img_path'))
    }


def cross_fit(
    args: argparse.Namespace, network: Network
) -> tuple[Scores, dict[str, Any]]:
    """Scores training images by networks that were trained without them.

    One network is trained for each fold, by the same config on the other
    folds. A run that was stopped goes on. An image that has all positives of
    a class in its fold stays in the training: that class would be unknown.

    Raises:
        ValueError: The config names no training images.
    """
    if network.cfg.get('train_dataloader') is None:
        raise ValueError(
            f'{args.config} names no training images; give --on FILE.json'
        )
    folder = network.path.parent / f'cross_fit_{args.folds}'
    found = []
    for number in range(args.folds):
        print(f'cross-fit: network {number + 1} of {args.folds}', flush=True)
        found.append(_fold_scores(args, number, folder))
    names = found[0].branches
    scores = Scores(
        np.concatenate([part.scores for part in found]),
        np.concatenate([part.targets for part in found]),
        [path for part in found for path in part.paths],
        {n: np.concatenate([f.branches[n] for f in found]) for n in names},
    )
    share = f'{args.folds - 1}/{args.folds}'
    note = (
        f'Cross-fitted on {len(scores.paths)} training images: each is '
        f'scored by one of {args.folds} networks, trained by the same config '
        f'on {share} of the images without it. The network at hand has seen '
        'more images, so its scores may lie a little further apart; '
        'validation images are better'
    )
    return scores, {'kind': 'cross-fit', 'folds': args.folds, 'note': note}


def _fold_scores(
    args: argparse.Namespace, number: int, folder: Path
) -> Scores:
    """Trains without one fold, in FOLDER/fold_NUMBER, and scores it."""
    cfg = load_config(args.config, args.cfg_options)
    held_out = deepcopy(cfg.test_dataloader or cfg.val_dataloader)
    pipeline = innermost_dataset(held_out).pipeline
    configs = innermost_datasets(cfg.train_dataloader)
    parts = []
    for config, built in zip(
        configs, _parts(cfg, cfg.train_dataloader), strict=True
    ):
        kept, out = _fold_indices(built, args.folds, number)
        earlier = config.get('indices')
        if earlier is not None:
            every = range(earlier) if isinstance(earlier, int) else earlier
            kept, out = ([every[i] for i in part] for part in (kept, out))
        parts.append({**config, 'indices': out, 'pipeline': pipeline})
        config.indices = kept
    cfg.work_dir = str(folder / f'fold_{number}')
    cfg.experiment_name = f'fold_{number}_of_{args.folds}_{os.getpid()}'
    for name in ('dataloader', 'cfg', 'evaluator'):
        cfg[f'val_{name}'] = cfg[f'test_{name}'] = None
    earlier = find_whole_checkpoint(cfg.work_dir)
    cfg.load_from, cfg.resume = earlier or cfg.load_from, earlier is not None
    fit_to_data(cfg)  # As train.py does.
    runner = RUNNERS.build(cfg)
    runner.cfg.test_dataloader = held_out  # NormStatisticsHook shows as it
    runner.train()
    checkpoint = find_whole_checkpoint(cfg.work_dir)
    if checkpoint is None:
        raise ValueError(f'the training in {cfg.work_dir} left no checkpoint')
    held_out.dataset = (
        parts[0]
        if len(parts) == 1
        else dict(type='ConcatDataset', datasets=parts)
    )
    network = load_network(
        args.config, checkpoint, args.device, args.cfg_options
    )
    return collect_scores(network.model, build_loader(cfg, held_out))


def _fold_indices(
    dataset: Any, count: int, number: int
) -> tuple[list[int], list[int]]:
    """Returns the images that a fold's network trains on, and the others."""
    labels = read_labels(dataset).matrix(len(dataset.metainfo['classes']))
    part = choice.stratified_folds(labels, count)[number]
    rest = np.setdiff1d(np.arange(len(labels)), part)
    missing = labels[part].any(0) & ~labels[rest].any(0)
    stays = part[labels[part][:, missing].any(1)]
    return (
        np.union1d(rest, stays).tolist(),
        np.setdiff1d(part, stays).tolist(),
    )


def calibration_table(report: Mapping[str, Any]) -> str:
    """Renders the calibration error and the shift of every group."""
    shifts = [f'Shift of {key or "model"}' for key in report['all']['shift']]
    rows = []
    for group, part in report.items():
        errors = [f'{100 * part[k]["ece"]:.2f}' for k in ('before', 'after')]
        rows.append(
            [group, *errors, *map(_shift_text, part['shift'].values())]
        )
    return (
        table(['Group', 'ECE in %', 'ECE calibrated', *shifts], rows)
        + '\nECE is the expected calibration error, calibrated on other '
        'images. The shift is the sum\nof the scores over the number of '
        'positives, and in brackets its size in log odds.'
    )


def _shift_text(shift: Mapping[str, Any]) -> str | None:
    if shift['ratio'] is None:
        return None
    return f'x {shift["ratio"]:.2f} ({shift["log_odds"]:+.2f})'


def reliability_figure(report: Mapping[str, Any], name: str) -> Figure:
    """Draws frequency over score by group, before and after."""
    figure = new_figure(7.5, 3.6, f'Reliability of {name}', 'bins by score')
    for axes, key in zip(
        figure.subplots(1, 2, sharey=True), ('before', 'after'), strict=True
    ):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for group, part in report.items():
            scores, hits, _ = zip(*part[key]['bins'], strict=True)
            label = f'{group}, ECE {100 * part[key]["ece"]:.1f} %'
            colour = GROUP_COLOURS.get(group, 'black')
            axes.plot(
                scores, hits, marker='o', ms=3, color=colour, label=label
            )
        axes.set(xlabel='mean score', title=f'{key} calibration')
        axes.legend()
    figure.axes[0].set_ylabel('share of positives')
    return figure
