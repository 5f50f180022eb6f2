"""VOC-LT and COCO-LT from the original annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ltml_mm.datasets.converters.coco_json import image_ids, read_coco
from ltml_mm.datasets.converters.errors import ConversionError
from ltml_mm.datasets.converters.pipeline import (
    OutputOptions,
    finish,
    train_command,
    verify,
)
from ltml_mm.datasets.converters.records import ImageSet, resolve
from ltml_mm.datasets.converters.split_file import read_ids
from ltml_mm.datasets.converters.voc_xml import read_voc_ids
from ltml_mm.datasets.converters.writer import check_output
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.datasets.splits import (
    COCO_LT,
    VOC_LT,
    PublishedSplit,
    ids_checksum,
)


def convert_voc_lt(
    devkit: str, options: OutputOptions, split_file: str | None = None
) -> str:
    """Makes VOC-LT from VOC2012 trainval and VOC2007 test.

    Objects marked difficult count as positives, in both sets.

    Args:
        devkit: The folder ``VOCdevkit`` with ``VOC2007`` and ``VOC2012``.
        options: Where to write and what to check.
        split_file: A list of training ids, one a line. Defaults to drawing
            the split by the published recipe.

    Returns:
        str: A summary for the user.

    Raises:
        ConversionError: A file is missing or broken; nothing is written.
    """
    check_output(options.out, options.force, [split_file])
    train, ids = _voc_set(devkit, 'VOC2012', 'trainval', options)
    test, _ = _voc_set(devkit, 'VOC2007', 'test', options)
    report = _convert(train, ids, test, 'voc_lt', VOC_LT, options, split_file)
    command = train_command(
        'configs/ltml_voc.py', train, options, 'data/voc_lt', '../VOCdevkit'
    )
    return f'{report}\n{command}'


def convert_coco_lt(
    coco: str, options: OutputOptions, split_file: str | None = None
) -> str:
    """Makes COCO-LT from train2017 and val2017.

    All images of val2017 stay; those without a label are negatives.

    Args:
        coco: The folder with ``annotations``, ``train2017``, ``val2017``.
        options: Where to write and what to check.
        split_file: A list of training ids, one a line. Defaults to drawing
            the split by the published recipe.

    Returns:
        str: A summary for the user.

    Raises:
        ConversionError: A file is missing or broken; nothing is written.
    """
    check_output(options.out, options.force, [split_file])
    train, ids = _coco_set(coco, 'train2017', options)
    test, _ = _coco_set(coco, 'val2017', options)
    report = _convert(
        train, ids, test, 'coco_lt', COCO_LT, options, split_file
    )
    command = train_command(
        'configs/ltml_coco.py', train, options, 'data/coco_lt', '../coco'
    )
    return f'{report}\n{command}'


def _voc_set(
    devkit: str, year: str, part: str, options: OutputOptions
) -> tuple[ImageSet, list[str]]:
    listing = os.path.join(devkit, year, 'ImageSets', 'Main', f'{part}.txt')
    ids = read_ids(listing)
    places = [(listing, line) for line in range(1, len(ids) + 1)]
    source = read_voc_ids(
        devkit, ids, f'{year}/Annotations', f'{year}/JPEGImages', places
    )
    return resolve(source, None, VOC_CLASSES, options.allow_outside), ids


def _coco_set(
    coco: str, part: str, options: OutputOptions
) -> tuple[ImageSet, list[str]]:
    path = os.path.join(coco, 'annotations', f'instances_{part}.json')
    source = read_coco(path, folder=part)
    if source.classes != COCO_CLASSES:
        raise ConversionError(
            f'{path}: its categories are not the 80 of COCO in their order; '
            'tools/dataset_converters/custom.py converts other data'
        )
    ids = image_ids(path, source)
    return resolve(source, coco, None, options.allow_outside), ids


def _convert(
    images: ImageSet,
    ids: Sequence[str],
    test: ImageSet,
    name: str,
    published: PublishedSplit,
    options: OutputOptions,
    split_file: str | None,
) -> str:
    recipe: dict[str, Any]
    if split_file is None:
        recipe = {'function': 'pareto_split', **asdict(published.recipe)}
        indices = published.recipe.split(images.matrix()).tolist()
    else:
        recipe = {'split_file': os.path.basename(split_file)}
        wanted = set(read_ids(split_file, known=ids))
        indices = [i for i, image_id in enumerate(ids) if image_id in wanted]
    chosen = [ids[i] for i in indices]
    equal = published.matches(chosen)
    split = {
        'recipe': recipe,
        'train_ids_sha256': ids_checksum(chosen),
        'published_sha256': published.sha256,
        'equals_published': equal,
    }
    train = images.subset(indices)
    verify([train, test], options)
    summary = finish(train, test, name, split, options)
    return f'{summary}\n{_verdict(equal, published, split_file)}'


def _verdict(
    equal: bool, published: PublishedSplit, split_file: str | None
) -> str:
    if equal:
        return 'the training ids equal the published list'
    size = published.num_images
    advice = (
        'pass that list as --split-file to train on it'
        if split_file is None
        else f'{split_file} is another list'
    )
    return (
        f'WARNING: the training ids differ from the published list of {size}; '
        f'results are not comparable with published ones. {advice}'
    )
