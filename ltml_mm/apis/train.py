"""Trains a config: the logic of ``tools/train.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from ltml_cli import parse
from ltml_cli.options import check_new_run
from ltml_cli.run_parsers import SAFETENSORS
from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint
from ltml_mm.apis.cli import prepare_config
from ltml_mm.apis.config import fit_to_data, load_config
from ltml_mm.apis.learning_rate import build_runner
from ltml_mm.apis.screen import quiet_run
from ltml_mm.apis.weights import fetch_weights
from ltml_mm.decisions.model_card import share

#: What --amp may name. bfloat16 has float32's range, and needs no scale.
PRECISIONS: dict[str, dict[str, Any]] = {
    'fp16': dict(loss_scale='dynamic', dtype='float16'),
    'bf16': dict(loss_scale=dict(enabled=False), dtype='bfloat16'),
}
#: What --amp takes in place of a plain optimizer wrapper.
MIXED_PRECISION = {
    'OptimWrapper': 'AmpOptimWrapper',
    'GuardedOptimWrapper': 'GuardedAmpOptimWrapper',
}


def training_config(args: argparse.Namespace) -> Config:
    """Builds the complete config of a training."""
    cfg = load_config(args.config, args.cfg_options)
    prepare_config(cfg, args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        _use_mixed_precision(cfg, args.amp)
    if args.tensorboard:
        _log_for_tensorboard(cfg)
    if args.auto_scale_lr:
        if cfg.get('auto_scale_lr') is None:
            raise ValueError(
                f'{args.config} has no auto_scale_lr=dict(base_batch_size=...)'
                ', the pairs of a step that its learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    elif not cfg.get('resume'):
        check_new_run(cfg.work_dir)
    fit_to_data(cfg)
    path = cfg.get('load_from')
    if path is None and cfg.get('resume'):
        # Named here, since the Runner would follow the pointer alone.
        cfg.load_from = find_whole_checkpoint(cfg.work_dir)
    elif path is not None and '://' not in path:
        read_checkpoint(path)
    return cfg


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what the command line asks for."""
    args = parse('train', argv)
    cfg = training_config(args)
    if not cfg.get('resume') and cfg.get('load_from') is None:
        fetch_weights(cfg)
    with quiet_run(lambda: build_runner(cfg), args.verbose) as runner:
        runner.train()
    if args.safetensors and is_main_process():
        checkpoint = find_whole_checkpoint(cfg.work_dir)
        if checkpoint is None:
            raise ValueError(f'{cfg.work_dir} holds no checkpoint to convert')
        share(
            args.config,
            checkpoint,
            Path(checkpoint).with_suffix(SAFETENSORS),
            cfg_options=args.cfg_options,
        )


def _use_mixed_precision(cfg: Config, precision: str) -> None:
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in (*MIXED_PRECISION, *MIXED_PRECISION.values()):
        raise ValueError(
            f'--amp takes the place of {" or ".join(MIXED_PRECISION)}, but '
            f'the config has {kind}'
        )
    kind = MIXED_PRECISION.get(kind, kind)
    on_cpu = precision == 'bf16' and kind == 'GuardedAmpOptimWrapper'
    if not (on_cpu or torch.cuda.is_available()):
        raise ValueError(
            '--amp needs a GPU, and there is none; leave out --amp, or with '
            'GuardedOptimWrapper give --amp bf16'
        )
    cfg.optim_wrapper.type = kind
    for key, value in PRECISIONS[precision].items():
        cfg.optim_wrapper.setdefault(key, value)


def _log_for_tensorboard(cfg: Config) -> None:
    if find_spec('tensorboard') is None:
        raise ValueError('--tensorboard needs: pip install tensorboard')
    local = dict(type='LocalVisBackend')
    if cfg.get('visualizer') is None:  # then the Runner takes this one
        cfg.visualizer = dict(type='Visualizer', vis_backends=[local])
    backends = cfg.visualizer.setdefault('vis_backends', [local])
    wanted = dict(type='TensorboardVisBackend')
    if not any(b.get('type') == wanted['type'] for b in backends):
        backends.append(wanted)
