"""Trains from cached features of a frozen trunk, for machines with no GPU.

With every stage but the last frozen, its output for an image and a view of
it never changes: it is computed once and read in each step. What is trained,
the copies of the last stage and the heads, is trained as ever.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import track_iter_progress
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ltml_mm.datasets.two_stream import innermost_dataset, seeded_draw
from ltml_mm.experiments.cache_checks import (
    build_dataset,
    build_datasets,
    cache_facts,
    cached_images,
    check_cache,
    check_images,
    image_checksums,
    plain_pipeline,
)
from ltml_mm.experiments.trunk_features import (
    PLAIN_VIEWS,
    CachedTrunkResNet,
)
from ltml_mm.files import write_json

#: Images that pass through the trunk at once.
BATCH = 32


def make_cache(cfg: Config, folder: str | Path, views: int) -> None:
    """Computes the features of a config's images, where they are not yet.

    The cache holds ``views`` augmented views of every training image and,
    of all images, the whole and its mirror image through the test pipeline.
    It is written to the side and renamed.

    Args:
        cfg: A complete config with an MMPretrain ResNet.
        folder: The cache.
        views: Augmented views of a training image.

    Raises:
        ValueError: The backbone is no ResNet, or the folder holds the
            features of another backbone, pipeline or number of views, not
            those of every image, or those of an image that has changed.
    """
    folder = Path(folder)
    facts, images = cache_facts(cfg, views), cached_images(cfg)
    if folder.exists():
        check_cache(folder, facts)
        check_images(folder, images)
        return
    partial = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
    partial.mkdir(parents=True)
    try:
        # Ahead of the features: what changes meanwhile must be told of later.
        checksums = image_checksums(images)
        trunk = _Trunk(cfg)
        train, test = build_datasets(cfg)
        plain = build_dataset(cfg.train_dataloader, plain_pipeline(cfg))
        trunk.write(partial / 'augmented.npy', train, views)
        trunk.write_plain(partial / 'plain.npy', [plain, test])
        index = {'facts': facts, **images, 'checksums': checksums}
        write_json(partial / 'index.json', index)
        _put(partial, folder)
        check_cache(folder, facts)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, folder: Path) -> None:
    try:
        os.replace(partial, folder)
    except OSError:
        # Another process was faster.
        if not (folder / 'index.json').is_file():
            raise


def use_cache(cfg: Config, folder: str | Path, views: int) -> None:
    """Lets a config train and test from cached features, in place.

    Args:
        cfg: A complete config.
        folder: The cache, as :func:`make_cache` made it.
        views: As there.

    Raises:
        ValueError: The cache is that of another backbone, pipeline or
            number of views.
    """
    check_cache(Path(folder), cache_facts(cfg, views))
    # The config that a run dumps must stand by itself.
    cfg.custom_imports.imports.append(CachedTrunkResNet.__module__)
    backbone = cfg.model.backbone
    backbone.type = 'CachedTrunkResNet'
    backbone.frozen_stages = backbone.get('num_stages', 4) - 1
    cfg.data_preprocessor = dict(mean=None, std=None, to_rgb=False)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is None:
            continue
        view = 'augmented' if name.startswith('train') else 'whole'
        innermost_dataset(cfg[name]).pipeline = load_view(folder, view)
        # Reading an array takes no worker.
        cfg[name].update(num_workers=0, persistent_workers=False)


def load_view(folder: str | Path, view: str) -> list[dict]:
    """The pipeline that loads one view.

    Args:
        folder: The cache.
        view: See :class:`LoadTrunkFeatures`.

    Returns:
        list[dict]: Configs of transforms.
    """
    load = dict(type='LoadTrunkFeatures', folder=str(folder), view=view)
    return [load, dict(type='PackInputs')]


def add_cached_flip(cfg: Config, folder: str | Path) -> None:
    """Lets the test average each image and its mirror image, in place.

    Args:
        cfg: A config after :func:`use_cache`.
        folder: The cache.
    """
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    loads, packs = zip(
        *(load_view(folder, view) for view in PLAIN_VIEWS), strict=True
    )
    views = dict(type='TestTimeAug', transforms=[[*loads], [packs[0]]])
    cfg.test_dataloader.dataset.pipeline = [views]


class _Trunk:
    """A backbone up to its last stage, and the preprocessing before it."""

    def __init__(self, cfg: Config) -> None:
        self.backbone = MODELS.build(cfg.model.backbone)
        self.backbone.init_weights()
        last = self.backbone.res_layers[-1]
        self.backbone.add_module(last, nn.Identity())
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.backbone.to(device)
        self.backbone.eval()
        self.preprocessor = MODELS.build(
            dict(type='ClsDataPreprocessor', **cfg.data_preprocessor)
        ).to(device)

    @torch.no_grad()
    def features(self, images: list[Tensor]) -> np.ndarray:
        """Returns the features (N, h, w, C) of images, in float16."""
        data = {'inputs': images, 'data_samples': None}
        (output,) = self.backbone(self.preprocessor(data)['inputs'])
        return output.permute(0, 2, 3, 1).half().cpu().numpy()

    def write(self, path: Path, dataset: Any, views: int) -> None:
        """Writes augmented views (N, views, h, w, C) of a dataset."""

        def images() -> Iterator[Tensor]:
            for index in range(len(dataset)):
                for view in range(views):
                    with seeded_draw((index, view), 'cached trunk'):
                        image = dataset[index]['inputs']
                    yield image

        self._fill(path, images(), len(dataset), views)

    def write_plain(self, path: Path, datasets: list[Any]) -> None:
        """Writes the whole and the mirrored images (N, 2, h, w, C)."""

        def images() -> Iterator[Tensor]:
            for dataset in datasets:
                for index in range(len(dataset)):
                    image = dataset[index]['inputs']
                    yield from (image, image.flip(-1))

        self._fill(path, images(), sum(map(len, datasets)), 2)

    def _fill(
        self, path: Path, images: Iterator[Tensor], count: int, views: int
    ) -> None:
        flat = None
        starts = range(0, count * views, BATCH)
        for start in track_iter_progress((starts, len(starts))):
            size = min(BATCH, count * views - start)
            features = self.features([next(images) for _ in range(size)])
            if flat is None:
                shape = (count, views, *features.shape[1:])
                array = np.lib.format.open_memmap(
                    path, mode='w+', dtype=np.float16, shape=shape
                )
                flat = array.reshape(count * views, *shape[2:])
            flat[start : start + size] = features
        if flat is not None:
            array.flush()
