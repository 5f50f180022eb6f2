"""Measures the statistics of BatchNorms anew, of a training's last weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ltml_mm.apis.checkpoint import (
    find_whole_checkpoint,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.config import training_dataset
from ltml_mm.apis.model import build_model, pick_device, scope_of
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.files import AtomicFileBackend
from ltml_mm.models.weight_averaging import reestimate_norms, trained_norms


@HOOKS.register_module()
class NormStatisticsHook(Hook):
    """Saves, after a training, a checkpoint with BatchNorm measured anew.

    ``epoch_8_bn.pth`` stands beside ``epoch_8.pth`` and differs from it in
    the running statistics of the BatchNorms that were trained: see
    :func:`remeasure_checkpoint`. Compare both before using it.

    Args:
        images (int, optional): Training images to measure on; else all.
    """

    priority = 'LOWEST'

    def __init__(self, images: int | None = None) -> None:
        if images is not None and images < 1:
            raise ValueError(f'images must be at least 1, got {images}')
        self.images = images

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Measures the norms of the last checkpoint."""
        path = find_whole_checkpoint(runner.work_dir)
        if path is None:
            raise ValueError(
                f'NormStatisticsHook: no checkpoint in {runner.work_dir}'
            )
        out = Path(path).with_name(f'{Path(path).stem}_bn.pth')
        seen = remeasure_checkpoint(runner.cfg, path, out, self.images)
        runner.logger.info(
            f'{out}: BatchNorm measured anew on {seen} training images'
        )


def remeasure_checkpoint(
    cfg: Config,
    path: str | Path,
    out: Path,
    images: int | None = None,
    seed: int = 0,
) -> int:
    """Writes a checkpoint whose BatchNorms are measured anew.

    In training they see augmented images, in the proportions of the samplers,
    and both streams of a step together. Here each training image counts
    once, as the test shows it. Norms that the training leaves alone, those of
    frozen stages for instance, stay.

    Args:
        cfg: The complete config of the training.
        path: The checkpoint; of one with EMA the averaged weights.
        out: Where the new one goes, with weights and ``meta`` alone.
        images: Training images to measure on, None for all.
        seed: Chooses which, and their order.

    Returns:
        int: The number of images.

    Raises:
        CheckpointError: The checkpoint cannot be read or is of another model.
        ValueError: There is no BatchNorm that was trained.
    """
    checkpoint = read_checkpoint(path)
    cfg = deepcopy(cfg)
    # A batch of single images has no streams to normalise apart.
    for part in (cfg.model, cfg.model.get('fork') or {}):
        part.pop('bn_streams', None)
    model = revert_sync_batchnorm(build_model(cfg))  # That waits for others.
    load_weights(model, checkpoint['state_dict'], path)
    model.to(pick_device())
    batches = training_batches(cfg, images or sys.maxsize, seed)
    seen = reestimate_norms(model, batches, trained_norms(model))
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    meta = {**checkpoint.get('meta', {}), 'bn_images': seen}
    content = BytesIO()
    torch.save({'state_dict': weights, 'meta': meta}, content)
    AtomicFileBackend().put(content.getvalue(), out)
    return seen


def training_batches(
    cfg: Config, num_images: int, seed: int = 0
) -> Iterator[Any]:
    """Yields training images as the test shows them, in batches.

    The pipeline is the test's: the statistics are for images without
    augmentation, and with it they would depend on more than the images. The
    seed chooses which, each once and at most all there are, and their order.
    """
    loader = cfg.test_dataloader
    pipeline = innermost_dataset(loader).pipeline
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        dataset = training_dataset(cfg, pipeline)
    order = np.random.default_rng(seed).permutation(len(dataset))[:num_images]
    # Batches of nearly one size: a single image left over may have but one
    # value a channel, and no variance.
    count = -(-len(order) // loader.batch_size)
    yield from DataLoader(
        dataset,
        batch_sampler=[part.tolist() for part in np.array_split(order, count)],
        num_workers=loader.get('num_workers', 0),
        collate_fn=default_collate,
    )
