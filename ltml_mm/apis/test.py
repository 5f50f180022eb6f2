"""Evaluates a checkpoint: the logic of ``tools/test.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.cli import add_common_arguments, prepare_config
from ltml_mm.apis.config import load_config
from ltml_mm.evaluation import PredictionCollector
from ltml_mm.files import write_json


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of ``tools/test.py``."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_common_arguments(parser)
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average the predictions of the image and of its mirror image',
    )
    parser.add_argument(
        '--out',
        metavar='X.json',
        help='write metrics and predictions to this JSON file',
    )
    parser.add_argument(
        '--show-dir', help='draw the predictions on the images, into here'
    )
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith('.json'):
        parser.error(f'--out must end with .json, got {args.out}')
    if args.tta and args.show_dir:
        parser.error('--show-dir draws single views: leave out --tta')
    return args


def test_config(args: argparse.Namespace) -> Config:
    """Builds the complete config of an evaluation.

    Args:
        args: The parsed command line.

    Returns:
        Config: What ``Runner.from_cfg`` takes.

    Raises:
        FileNotFoundError: The config or a file of the data does not exist.
        CheckpointError: The checkpoint cannot be read.
        ValueError: Config, data and arguments do not fit together.
    """
    meta = read_checkpoint(args.checkpoint).get('meta', {})
    cfg = load_config(args.config, args.cfg_options, meta.get('dataset_meta'))
    prepare_config(cfg, args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    # MMEngine would evaluate what the checkpoint lacks as it was initialised.
    check = {'resume_check': dict(type='ResumeCheckHook', whole=True)}
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), **check}
    if args.show_dir is not None:
        draw_into(cfg, args.show_dir)
    if args.tta:
        add_flip_tta(cfg)
    return cfg


def draw_into(cfg: Config, folder: str) -> None:
    """Lets the test draw its predictions on the images, in place.

    Args:
        cfg: A config with MMPretrain's visualization hook.
        folder: Where the pictures go.

    Raises:
        ValueError: It has no such hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError(
            "--show-dir needs visualization=dict(type='VisualizationHook') "
            "in the config's default_hooks, and "
            "visualizer=dict(type='UniversalVisualizer')"
        )
    hook.update(enable=True, out_dir=folder)


def add_flip_tta(cfg: Config) -> None:
    """Lets the test average each image and its mirror image, in place.

    Args:
        cfg: A config whose test pipeline ends with the packing transform;
            its ``tta_model`` merges the views. As in MMPretrain, a
            ``tta_pipeline`` takes the place of the flips.

    Raises:
        ValueError: It has no ``tta_model``.
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
    """Evaluates."""
    args = parse_args(argv)
    runner = Runner.from_cfg(test_config(args))
    collector = PredictionCollector()
    if args.out is not None:
        runner.test_evaluator.metrics.append(collector)
    metrics: dict[str, Any] = runner.test()
    if args.out is not None and is_main_process():
        content = {'metrics': metrics, 'predictions': collector.predictions}
        write_json(args.out, content)
