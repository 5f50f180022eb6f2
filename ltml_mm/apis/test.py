"""Evaluates a checkpoint: the logic of ``tools/test.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from tqdm import tqdm

from ltml_cli import parse
from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.cli import prepare_config
from ltml_mm.apis.config import load_config
from ltml_mm.apis.screen import quiet_run
from ltml_mm.datasets.annotations import check_class_names
from ltml_mm.datasets.two_stream import innermost_dataset, innermost_datasets
from ltml_mm.decisions.choice import gain_text, measure, threshold_table
from ltml_mm.decisions.thresholds import (
    FILE_NAME,
    Thresholds,
    find_thresholds,
    weights_digest,
)
from ltml_mm.evaluation import PredictionCollector
from ltml_mm.files import file_sha256, write_bytes, write_json
from ltml_mm.inspection.pictures import draw_prediction, encode_picture


def test_config(args: argparse.Namespace) -> Config:
    """Builds the complete config of an evaluation."""
    meta = read_checkpoint(args.checkpoint).get('meta', {})
    cfg = load_config(args.config, args.cfg_options, meta.get('dataset_meta'))
    if cfg.get('test_dataloader') is None:
        raise ValueError(f'{args.config} has no test_dataloader to evaluate')
    prepare_config(cfg, args)
    set_checkpoint(cfg, args.checkpoint)
    # Not over the complete config that the training left there.
    name = Path(cfg.filename).stem + '_test.py'
    object.__setattr__(cfg, '_filename', str(Path(cfg.work_dir, name)))
    if args.tta:
        add_flip_tta(cfg)
    return cfg


def set_checkpoint(cfg: Config, checkpoint: str) -> None:
    """Makes the test load all weights from a checkpoint, in place."""
    cfg.load_from = checkpoint
    cfg.resume = False
    # MMEngine would evaluate what the checkpoint lacks as it was initialised.
    check = {'resume_check': dict(type='ResumeCheckHook', whole=True)}
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), **check}


def draw_predictions(
    dataset: Any, predictions: Sequence[Mapping[str, Any]], folder: str | Path
) -> None:
    """Draws true and predicted classes on every image of a test set.

    MMPretrain's hook draws one image in 5,000 and takes blue for red. Images
    are drawn as they are loaded; of a set without a loading step, what the
    network sees. Each has a name of its own, ``INDEX_NAME.png``.
    """
    for index, prediction in enumerate(tqdm(predictions, disable=None)):
        picture = draw_prediction(
            _loaded_image(dataset, index)[..., ::-1].astype(np.uint8),
            dataset.metainfo['classes'],
            prediction['scores'],
            prediction['pred_label'],
            prediction.get('gt_label'),
        )
        # Cut, because a name may already be as long as names can be.
        stem = Path(prediction['img_path'] or '').stem[:60]
        name = f'{index}_{stem}.png'
        write_bytes(Path(folder) / name, encode_picture(picture, name))


def _loaded_image(dataset: Any, index: int) -> np.ndarray:
    """Returns an image before it is resized, BGR (H, W, 3)."""
    results = dataset.get_data_info(index)
    pipeline = getattr(innermost_dataset(dataset), 'pipeline', None)
    for step in getattr(pipeline, 'transforms', ()):
        if 'img' not in results and type(step).__name__.startswith('Load'):
            results = step(results)
    if 'img' in results:
        return np.asarray(results['img']).clip(0, 255)
    return dataset[index]['inputs'].numpy().transpose(1, 2, 0)


def add_flip_tta(cfg: Config) -> None:
    """Makes the test average each image and its mirror image, in place.

    As in MMPretrain, a ``tta_pipeline`` takes the place of the flips.

    Raises:
        ValueError: The config has no ``tta_model``.
    """
    if cfg.get('tta_model') is None:
        raise ValueError(
            "--tta needs tta_model=dict(type='CollaborativeTTA') in the "
            "config, or 'AverageClsScoreTTA' for a stock ImageClassifier"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    if cfg.get('tta_pipeline') is not None:
        dataset.pipeline = cfg.tta_pipeline
        return
    *transforms, pack = deepcopy(dataset.pipeline)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    views = dict(type='TestTimeAug', transforms=[flips, [pack]])
    dataset.pipeline = [*transforms, views]


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates, and writes and draws the predictions where asked."""
    args = parse('test', argv)
    cfg = test_config(args)
    digest = weights_digest(read_checkpoint(args.checkpoint)['state_dict'])
    collector = PredictionCollector()
    with quiet_run(lambda: RUNNERS.build(cfg), args.verbose) as runner:
        for part in innermost_datasets(runner.test_dataloader):
            check_class_names(part)
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        thresholds, source = find_thresholds(
            args.checkpoint, digest, meta.get('classes') or (), args.thresholds
        )
        beside = Path(args.checkpoint).with_name(FILE_NAME)
        if not thresholds and beside.is_file():  # Of another model.
            runner.logger.warning(source)
        if thresholds or args.out is not None or args.show_dir is not None:
            runner.test_evaluator.metrics.append(collector)
        metrics: dict[str, Any] = runner.test()
        result = {
            # Figures of several views are none of the model's own.
            'model': None if args.tta else digest,
            'metrics': metrics,
            'predictions': collector.predictions,
        }
        if thresholds and is_main_process():
            result['decisions'] = decide(thresholds, source, collector, runner)
    if not is_main_process():
        return
    if args.out is not None:
        write_json(args.out, result)
    if args.show_dir is not None:
        dataset = runner.test_dataloader.dataset
        draw_predictions(dataset, collector.predictions, args.show_dir)


def decide(
    thresholds: Thresholds,
    source: str,
    collector: PredictionCollector,
    runner: Runner,
) -> dict[str, Any]:
    """Takes the decisions of every image, and shows how right they are.

    The ``pred_label`` of the predictions are replaced; ``source`` is the file
    of the thresholds.

    Returns:
        dict: ``thresholds``, the file; ``summary`` and ``classes``, see
        :class:`~ltml_mm.decisions.thresholds.Thresholds`, measured here.
    """
    predictions = collector.predictions
    scores = np.array([record['scores'] for record in predictions])
    targets = np.zeros(scores.shape, bool)
    decided = thresholds.decide(scores)
    for index, record in enumerate(predictions):
        targets[index, record.get('gt_label', [])] = True
        record['pred_label'] = np.flatnonzero(decided[index]).tolist()
    if not targets.any():
        return {'thresholds': source}
    found = measure(thresholds, decided, targets)
    file = getattr(runner.test_dataloader.dataset, 'ann_file', '')
    chosen = thresholds.chosen_on.get('sha256')
    if chosen and Path(file).is_file() and file_sha256(file) == chosen:
        runner.logger.warning(
            f'the thresholds were chosen on these images ({file}): what they '
            'bring is told too high; thresholds.py cross-validates it'
        )
    runner.logger.info(
        f'Decisions in percent, at the thresholds of {source}:\n'
        f'{threshold_table(found)}\n{gain_text(found, scores, targets)}',
        extra={'screen': True},
    )
    return {
        'thresholds': source,
        'summary': dict(found.summary),
        'classes': list(found.classes),
    }
