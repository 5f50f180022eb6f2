"""What cached features depend on, and whether a cache still fits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmpretrain.registry import DATASETS

from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.experiments.digest import checksum
from ltml_mm.experiments.trunk_features import read_index

#: Images by the kind of their features, then path: the row of the features.
Images = dict[str, dict[str, int]]


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
        backbone['init_cfg']['checkpoint'] = checksum(checkpoint)
    pipeline = innermost_dataset(cfg.train_dataloader).pipeline
    facts = dict(
        backbone=backbone,
        data_preprocessor=cfg.data_preprocessor.to_dict(),
        train_pipeline=pipeline,
        test_pipeline=plain_pipeline(cfg),
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


def check_rows(configs: Mapping[str, Config], views: int) -> None:
    """Checks that the rows of a comparison can share one cache.

    Args:
        configs: Complete configs by the name of the row.
        views: Augmented views of a training image.

    Raises:
        ValueError: A row needs other features than the first; names both.
    """
    first, *others = configs
    expected = _facts_of_row(configs, first, views)
    for row in others:
        facts = _facts_of_row(configs, row, views)
        differing = [key for key in facts if facts[key] != expected[key]]
        if _reads_further_images(configs[row], configs[first]):
            differing.append('set of images')
        if differing:
            raise ValueError(
                f'row {row} has another {" and ".join(differing)} than row '
                f'{first}, and they cannot share cached features: compare '
                'them without --cache-trunk'
            )


def _facts_of_row(
    configs: Mapping[str, Config], row: str, views: int
) -> dict[str, Any]:
    try:
        return cache_facts(configs[row], views)
    except ValueError as error:
        raise ValueError(f'row {row}: {error}') from error


def _reads_further_images(cfg: Config, first: Config) -> bool:
    if _sources(cfg) == _sources(first):
        return False
    images, cached = cached_images(cfg), cached_images(first)
    return any(images[kind].keys() - cached[kind].keys() for kind in images)


def _sources(cfg: Config) -> list[dict]:
    """The configs of the training and the test set, without pipelines."""
    loaders = (cfg.train_dataloader, cfg.test_dataloader)
    return [{**innermost_dataset(x), 'pipeline': None} for x in loaders]


def cached_images(cfg: Config) -> Images:
    """Lists the images of a config.

    Args:
        cfg: A complete config, before ``use_cache``.

    Returns:
        dict: By ``augmented``, the training set, and ``plain``, training and
        test set: rows of the features by path.
    """
    train, test = build_datasets(cfg)
    return {'augmented': _paths([train]), 'plain': _paths([train, test])}


def image_checksums(images: Images) -> dict[str, str]:
    """Returns the checksums of the image files by path.

    Args:
        images: See :func:`cached_images`; a dataset may draw its images and
            have no file.
    """
    return {
        path: checksum(path)
        for path in images['plain']
        if Path(path).is_file()
    }


def check_images(folder: Path, images: Images) -> None:
    """Checks that a cache holds the features of images as they are now.

    An image that is gone passes, since training needs its features alone.

    Args:
        folder: The cache.
        images: See :func:`cached_images`.

    Raises:
        ValueError: Features or checksums are missing, or an image has
            changed; names the first.
    """
    index = read_index(folder)
    advice = 'remove that cache or name another folder'
    for kind, paths in images.items():
        missing = [path for path in paths if path not in index[kind]]
        if missing:
            raise ValueError(
                f'{len(missing)} images are not in the cache {folder}, the '
                f'first {missing[0]}: {advice}'
            )
    if 'checksums' not in index:
        raise ValueError(
            f'the cache {folder} has no checksums of its images: {advice}'
        )
    known = index['checksums']
    for path in images['plain']:
        if Path(path).is_file() and checksum(path) != known.get(path):
            raise ValueError(
                f'{path} has changed since its features were computed into '
                f'the cache {folder}: {advice}'
            )


def _paths(datasets: list[Any]) -> dict[str, int]:
    paths = [
        os.path.realpath(dataset.get_data_info(index)['img_path'])
        for dataset in datasets
        for index in range(len(dataset))
    ]
    return {path: row for row, path in enumerate(paths)}


def build_datasets(cfg: Config) -> tuple[Any, Any]:
    """Builds the training set, without its wrappers, and the test set."""
    train = innermost_dataset(cfg.train_dataloader).pipeline
    return (
        build_dataset(cfg.train_dataloader, train),
        build_dataset(cfg.test_dataloader, plain_pipeline(cfg)),
    )


def build_dataset(loader: Any, pipeline: list) -> Any:
    """Builds a dataloader's dataset with a pipeline."""
    return DATASETS.build({**innermost_dataset(loader), 'pipeline': pipeline})


def plain_pipeline(cfg: Config) -> list:
    """The pipeline that images are tested with."""
    return innermost_dataset(cfg.test_dataloader).pipeline
