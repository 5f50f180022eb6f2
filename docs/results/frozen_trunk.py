r"""Compares rows on the cached features of a frozen trunk, without a GPU.

With every stage but the last frozen, its output for an image and a view of
it never changes: it is computed once and read in each step. What is trained,
the copies of the last stage and the heads, is trained as ever.

Example:
    python docs/results/frozen_trunk.py --cache-trunk work_dirs/trunk \
        --data custom --rows erm ltml --out work_dirs/mine \
        --cfg-options data_root=data/mine
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Ahead of MMPretrain, which does not import beside some other packages.
import ltml_mm  # noqa: F401

# isort: split
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from torch import nn
from tqdm import tqdm
from trunk_features import PLAIN_VIEWS, CachedTrunkResNet, read_index

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.two_stream import (
    innermost_dataset,
    kept_random_states,
    seed_generators,
)
from ltml_mm.experiments import compare
from ltml_mm.files import file_sha256, write_json

#: Images that pass through the trunk at once.
BATCH = 32
ADVICE = 'remove that cache or name another folder'
#: Images by the kind of their features, then path: the row of the features.
Images = dict[str, dict[str, int]]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs ``compare.py`` with cached features in the place of images.

    Args:
        argv: The command line: that of ``compare.py`` and two more flags.
    """
    parser = argparse.ArgumentParser(
        description='Freeze all stages but the last of a ResNet and compare '
        'rows on features that are computed once. All further arguments are '
        'those of compare.py.',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--cache-trunk',
        type=Path,
        required=True,
        metavar='FOLDER',
        help='folder of the features',
    )
    parser.add_argument(
        '--views',
        type=int,
        default=6,
        help='augmented views of a training image in the cache (default: 6)',
    )
    args, rest = parser.parse_known_args(argv)
    if args.views < 1:
        parser.error(f'--views must be positive, got {args.views}')
    # The processes of the runs import trunk_features.
    paths = [str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    folder = args.cache_trunk.resolve()
    share = partial(share_cache, folder=folder, views=args.views)
    compare.main(rest, change=share)


def share_cache(
    configs: Mapping[str, Config], folder: Path, views: int
) -> None:
    """Lets all rows train from the same features, in place.

    Args:
        configs: Complete configs by the name of the row.
        folder: The cache; computed where there is none. Where it lacks
            images, those of ``--tune-on`` for instance, ``FOLDER_more``.
        views: Augmented views of a training image.

    Raises:
        ValueError: The rows need different features, or the folder holds
            others.
    """
    first = next(iter(configs.values()))
    init_default_scope(first.default_scope)
    check_rows(configs, views)
    if folder.exists():
        index, images = read_index(folder), cached_images(first)
        if any(images[kind].keys() - index[kind].keys() for kind in images):
            folder = folder.with_name(f'{folder.name}_more')
    make_cache(first, folder, views)
    for cfg in configs.values():
        use_cache(cfg, folder, views)


def check_rows(configs: Mapping[str, Config], views: int) -> None:
    """Checks that the rows of a comparison can share one cache.

    Args:
        configs: Complete configs by the name of the row.
        views: Augmented views of a training image.

    Raises:
        ValueError: A row needs other features than the first; names both.
    """
    keys = {}
    for row, cfg in configs.items():
        try:
            keys[row] = cache_key(cfg, views)
        except ValueError as error:
            raise ValueError(f'row {row}: {error}') from error
    first, *others = configs
    for row in others:
        differing = [k for k in keys[row] if keys[row][k] != keys[first][k]]
        if _reads_further_images(configs[row], configs[first]):
            differing.append('set of images')
        if differing:
            raise ValueError(
                f'row {row} has another {" and ".join(differing)} than row '
                f'{first}, and they cannot share cached features: compare '
                'them apart'
            )


def _reads_further_images(cfg: Config, first: Config) -> bool:
    if _sources(cfg) == _sources(first):
        return False
    images, cached = cached_images(cfg), cached_images(first)
    return any(images[kind].keys() - cached[kind].keys() for kind in images)


def _sources(cfg: Config) -> list[dict]:
    """The configs of the training and the test set, without pipelines."""
    loaders = (cfg.train_dataloader, cfg.test_dataloader)
    return [{**innermost_dataset(x), 'pipeline': None} for x in loaders]


def cache_key(cfg: Config, views: int) -> dict[str, Any]:
    """Returns what the features depend on, as JSON holds it.

    Args:
        cfg: A complete config, before :func:`use_cache`.
        views: Augmented views of a training image.

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
        backbone['init_cfg']['checkpoint'] = file_sha256(checkpoint)
    key = dict(
        backbone=backbone,
        data_preprocessor=cfg.data_preprocessor.to_dict(),
        train_pipeline=innermost_dataset(cfg.train_dataloader).pipeline,
        test_pipeline=innermost_dataset(cfg.test_dataloader).pipeline,
        views=views,
    )
    return json.loads(json.dumps(key))


def make_cache(cfg: Config, folder: Path, views: int) -> None:
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
    key, images = cache_key(cfg, views), cached_images(cfg)
    if folder.exists():
        check_cache(folder, key, images)
        return
    partial = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
    partial.mkdir(parents=True)
    try:
        # Ahead of the features: what changes meanwhile must be told of later.
        checksums = image_checksums(images)
        trunk = _Trunk(cfg)
        train, test = _datasets(cfg)
        trunk.write(partial / 'augmented.npy', train, views)
        plain = _build(
            cfg.train_dataloader,
            innermost_dataset(cfg.test_dataloader).pipeline,
        )
        trunk.write_plain(partial / 'plain.npy', [plain, test])
        index = {'facts': key, **images, 'checksums': checksums}
        write_json(partial / 'index.json', index)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_cache(folder: Path, key: Mapping[str, Any], images: Images) -> None:
    """Checks that a cache holds the features of a config and its images.

    An image that is gone passes, since training needs its features alone.

    Args:
        folder: The cache.
        key: See :func:`cache_key`.
        images: See :func:`cached_images`.

    Raises:
        ValueError: The cache is that of another config, an image is missing,
            or one has changed; names the first.
    """
    index = read_index(folder)
    differing = [k for k in key if key[k] != index['facts'].get(k)]
    if differing:
        raise ValueError(
            f'{folder} holds the features of another '
            f'{" and ".join(differing)}: {ADVICE}'
        )
    for kind, paths in images.items():
        missing = [path for path in paths if path not in index[kind]]
        if missing:
            raise ValueError(
                f'{len(missing)} images are not in the cache {folder}, the '
                f'first {missing[0]}: {ADVICE}'
            )
    if 'checksums' not in index:
        raise ValueError(
            f'the cache {folder} has no checksums of its images: {ADVICE}'
        )
    for path, checksum in image_checksums(images).items():
        if checksum != index['checksums'].get(path):
            raise ValueError(
                f'{path} has changed since its features were computed into '
                f'the cache {folder}: {ADVICE}'
            )


def use_cache(cfg: Config, folder: Path, views: int) -> None:
    """Lets a config train and test from cached features, in place.

    Args:
        cfg: A complete config.
        folder: The cache, as :func:`make_cache` made it.
        views: As there.
    """
    # Named in the config, so that the hash of the run depends on it.
    cfg.frozen_trunk = cache_key(cfg, views)
    cfg.custom_imports.imports.append(CachedTrunkResNet.__module__)
    backbone = cfg.model.backbone
    backbone.type = 'CachedTrunkResNet'
    backbone.setdefault('conv_cfg', dict(type='MatmulConv2d'))
    backbone.frozen_stages = backbone.get('num_stages', 4) - 1
    cfg.data_preprocessor = dict(mean=None, std=None, to_rgb=False)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is None:
            continue
        view = 'augmented' if name.startswith('train') else 'whole'
        innermost_dataset(cfg[name]).pipeline = load_view(folder, view)
        # Reading an array takes no worker.
        cfg[name].update(num_workers=0, persistent_workers=False)
    loads = [load_view(folder, view)[0] for view in PLAIN_VIEWS]
    pack = dict(type='PackInputs')
    cfg.augment_on = 'worker'  # The views are augmented already.
    cfg.tta_pipeline = [dict(type='TestTimeAug', transforms=[loads, [pack]])]


def load_view(folder: Path, view: str) -> list[dict]:
    """Returns the pipeline that loads one view of an image.

    Args:
        folder: The cache.
        view: See :class:`LoadTrunkFeatures`.
    """
    load = dict(type='LoadTrunkFeatures', data_root=str(folder), view=view)
    return [load, dict(type='PackInputs')]


def cached_images(cfg: Config) -> Images:
    """Lists the images of a config.

    Args:
        cfg: A complete config, before :func:`use_cache`.

    Returns:
        dict: By ``augmented``, the training set, and ``plain``, training and
        test set: rows of the features by path.
    """
    train, test = _datasets(cfg)
    return {'augmented': _paths([train]), 'plain': _paths([train, test])}


def _paths(datasets: list[Any]) -> dict[str, int]:
    paths = [
        os.path.realpath(dataset.get_data_info(index)['img_path'])
        for dataset in datasets
        for index in range(len(dataset))
    ]
    return {path: row for row, path in enumerate(paths)}


def image_checksums(images: Images) -> dict[str, str]:
    """Returns the checksums of the image files by path.

    Args:
        images: See :func:`cached_images`; a dataset may draw its images and
            have no file.
    """
    files = [path for path in images['plain'] if Path(path).is_file()]
    return {path: file_sha256(path) for path in files}


def _datasets(cfg: Config) -> tuple[Any, Any]:
    """Builds the training set, without its wrappers, and the test set."""
    loaders = (cfg.train_dataloader, cfg.test_dataloader)
    train, test = (_build(x, innermost_dataset(x).pipeline) for x in loaders)
    return train, test


def _build(loader: Any, pipeline: list) -> Any:
    return DATASETS.build({**innermost_dataset(loader), 'pipeline': pipeline})


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
            {'type': 'TwoStreamDataPreprocessor', **cfg.data_preprocessor}
        ).to(device)

    @torch.no_grad()
    def features(self, packed: list[dict]) -> np.ndarray:
        """Returns the features (N, h, w, C) of images, in float16."""
        # What the samples drew for the device is done there.
        data = {key: [image[key] for image in packed] for key in packed[0]}
        (output,) = self.backbone(self.preprocessor(data)['inputs'])
        return output.permute(0, 2, 3, 1).half().cpu().numpy()

    def write(self, path: Path, dataset: Any, views: int) -> None:
        """Writes augmented views (N, views, h, w, C) of a dataset."""

        def images() -> Iterator[dict]:
            for index in range(len(dataset)):
                for view in range(views):
                    with kept_random_states():
                        seed_generators((index, view), 'cached trunk')
                        image = dataset[index]
                    yield image

        self._fill(path, images(), len(dataset), views)

    def write_plain(self, path: Path, datasets: list[Any]) -> None:
        """Writes the whole and the mirrored images (N, 2, h, w, C)."""

        def images() -> Iterator[dict]:
            for dataset in datasets:
                for index in range(len(dataset)):
                    image = dataset[index]
                    mirrored = dict(image, inputs=image['inputs'].flip(-1))
                    yield from (image, mirrored)

        self._fill(path, images(), sum(map(len, datasets)), 2)

    def _fill(
        self, path: Path, images: Iterator[dict], count: int, views: int
    ) -> None:
        flat = None
        starts = range(0, count * views, BATCH)
        for start in tqdm(starts):
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


if __name__ == '__main__':
    gc.freeze()  # As the tools do.
    run_tool(main)
