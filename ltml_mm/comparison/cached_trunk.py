"""Trains from cached features of a frozen trunk, for machines with no GPU.

With every stage but the last frozen, its output for an image and a view of
it never changes: it is computed once and read in each step. What is trained,
the copies of the last stage and the heads, is trained as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.utils import track_iter_progress
from mmpretrain.models import ResNet
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor, nn

from ltml_mm.datasets.two_stream import seeded_draw
from ltml_mm.utils import write_json

#: Features of the whole image and of its mirror image, for tests.
PLAIN_VIEWS = ('whole', 'mirrored')
#: Images that pass through the trunk at once.
BATCH = 32


@ROOT_MODELS.register_module()
class CachedTrunkResNet(ResNet):
    """MMPretrain's ResNet, which also takes what enters its last stage.

    Args:
        **kwargs: Those of ``ResNet``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone, or its last stage alone.

        Args:
            x: Images (N, 3, H, W), or cached features (N, C, h, w).

        Returns:
            tuple[Tensor, ...]: The outputs of the stages, or of the last.
        """
        if x.size(1) == 3:
            return super().forward(x)
        return (getattr(self, self.res_layers[-1])(x),)


@ROOT_TRANSFORMS.register_module()
class LoadTrunkFeatures(BaseTransform):
    """Loads cached features in place of an image.

    Args:
        folder (str): The cache, as :func:`make_cache` writes it.
        view (str): ``'augmented'``, a random one of the cached views, or
            ``'whole'`` or ``'mirrored'``.
    """

    def __init__(self, folder: str, view: str) -> None:
        self.folder = folder
        self.view = view

    @cached_property
    def _cache(self) -> tuple[dict[str, int], np.ndarray]:
        augmented = self.view == 'augmented'
        kind = 'augmented' if augmented else 'plain'
        rows = read_index(self.folder)[kind]
        path = f'{self.folder}/{kind}.npy'
        return rows, np.lib.format.open_memmap(path, mode='r')

    def transform(self, results: dict) -> dict:
        """Puts the features (h, w, C), float32, where an image is expected.

        Args:
            results: Of a dataset, with ``img_path``.

        Returns:
            dict: With ``img``.

        Raises:
            ValueError: The image is not in the cache.
        """
        rows, features = self._cache
        path = os.path.realpath(results['img_path'])
        if path not in rows:
            raise ValueError(
                f'{path} is not in the cache {self.folder}: remove the cache '
                'or name another folder'
            )
        views = features[rows[path]]
        if self.view == 'augmented':
            # Seeded by the draw, see TwoStreamDataset.
            chosen = np.random.randint(len(views))
        else:
            chosen = PLAIN_VIEWS.index(self.view)
        results['img'] = views[chosen].astype(np.float32)
        return results


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
            features of another backbone, pipeline or number of views, or not
            those of every image.
    """
    folder = Path(folder)
    facts = cache_facts(cfg, views)
    if folder.exists():
        check_cache(folder, facts)
        _check_images(cfg, folder)
        return
    partial = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
    partial.mkdir(parents=True)
    try:
        trunk = _Trunk(cfg)
        train, test = _datasets(cfg)
        plain = _dataset(cfg, cfg.train_dataloader, _test_pipeline(cfg))
        augmented = trunk.write(partial / 'augmented.npy', train, views)
        whole = trunk.write_plain(partial / 'plain.npy', [plain, test])
        index = {'facts': facts, 'augmented': augmented, 'plain': whole}
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


def _check_images(cfg: Config, folder: Path) -> None:
    index = read_index(folder)
    train, test = _datasets(cfg)
    for kind, dataset in (('augmented', train), ('plain', test)):
        missing = [
            path for path in _paths([dataset]) if path not in index[kind]
        ]
        if missing:
            raise ValueError(
                f'{len(missing)} images are not in the cache {folder}, the '
                f'first {missing[0]}: remove it or name another folder'
            )


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
    backbone = cfg.model.backbone
    backbone.type = 'CachedTrunkResNet'
    backbone.frozen_stages = backbone.get('num_stages', 4) - 1
    cfg.data_preprocessor = dict(mean=None, std=None, to_rgb=False)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is None:
            continue
        view = 'augmented' if name.startswith('train') else 'whole'
        _innermost(cfg[name].dataset).pipeline = load_view(folder, view)
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


def cache_facts(cfg: Config, views: int) -> dict[str, Any]:
    """What the features depend on, as JSON holds it.

    Args:
        cfg: A complete config, before :func:`use_cache`.
        views: Augmented views of a training image.

    Returns:
        dict[str, Any]: The facts.

    Raises:
        ValueError: The backbone is no ResNet.
    """
    backbone = cfg.model.backbone.to_dict()
    if backbone.pop('type') != 'ResNet':
        raise ValueError(
            'cached features need an MMPretrain ResNet, got '
            f'{cfg.model.backbone.type}'
        )
    backbone.pop('frozen_stages', None)
    checkpoint = (backbone.get('init_cfg') or {}).get('checkpoint', '')
    if Path(checkpoint).is_file():
        backbone['init_cfg']['checkpoint'] = hashlib.sha256(
            Path(checkpoint).read_bytes()
        ).hexdigest()
    pipeline = _innermost(cfg.train_dataloader.dataset).pipeline
    facts = dict(
        backbone=backbone,
        data_preprocessor=cfg.data_preprocessor.to_dict(),
        train_pipeline=pipeline,
        test_pipeline=_test_pipeline(cfg),
        views=views,
    )
    return json.loads(json.dumps(facts))


def check_cache(folder: Path, facts: dict[str, Any]) -> None:
    """Checks that a cache is that of a config.

    Args:
        folder: The cache.
        facts: Those of the config, see :func:`cache_facts`.

    Raises:
        ValueError: They differ; names what does.
    """
    found = read_index(folder)['facts']
    differing = [key for key in facts if facts[key] != found.get(key)]
    if differing:
        raise ValueError(
            f'{folder} holds the features of another '
            f'{" and ".join(differing)}: remove it or name another folder'
        )


def read_index(folder: str | Path) -> dict[str, Any]:
    """Reads what a cache holds.

    Args:
        folder: The cache.

    Returns:
        dict[str, Any]: ``facts``, and the rows of the ``augmented`` and
        ``plain`` features by the image's path.
    """
    return json.loads((Path(folder) / 'index.json').read_text())


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

    def write(self, path: Path, dataset: Any, views: int) -> dict[str, int]:
        """Writes augmented views (N, views, h, w, C) of a dataset."""

        def images() -> Iterator[Tensor]:
            for index in range(len(dataset)):
                for view in range(views):
                    with seeded_draw((index, view), 'cached trunk'):
                        image = dataset[index]['inputs']
                    yield image

        self._fill(path, images(), len(dataset), views)
        return _paths([dataset])

    def write_plain(self, path: Path, datasets: list[Any]) -> dict[str, int]:
        """Writes the whole and the mirrored images (N, 2, h, w, C)."""

        def images() -> Iterator[Tensor]:
            for dataset in datasets:
                for index in range(len(dataset)):
                    image = dataset[index]['inputs']
                    yield from (image, image.flip(-1))

        self._fill(path, images(), sum(map(len, datasets)), 2)
        return _paths(datasets)

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


def _paths(datasets: list[Any]) -> dict[str, int]:
    paths = [
        os.path.realpath(dataset.get_data_info(index)['img_path'])
        for dataset in datasets
        for index in range(len(dataset))
    ]
    return {path: row for row, path in enumerate(paths)}


def _datasets(cfg: Config) -> tuple[Any, Any]:
    train = _innermost(cfg.train_dataloader.dataset).pipeline
    return (
        _dataset(cfg, cfg.train_dataloader, train),
        _dataset(cfg, cfg.test_dataloader, _test_pipeline(cfg)),
    )


def _dataset(cfg: Config, loader: Any, pipeline: list) -> Any:
    dataset = {**_innermost(loader.dataset), 'pipeline': pipeline}
    return DATASETS.build(dataset)


def _test_pipeline(cfg: Config) -> list:
    return _innermost(cfg.test_dataloader.dataset).pipeline


def _innermost(dataset: Any) -> Any:
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
