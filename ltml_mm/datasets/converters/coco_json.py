"""Reads COCO's instances JSON through pycocotools."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from pycocotools.coco import COCO
from tqdm import tqdm

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.records import Example, Source
from ltml_mm.datasets.converters.text import EntryLines, read_json

# What each list must hold. The outlines and boxes of the objects, most of
# the file, are dropped while it is parsed.
FIELDS: dict[str, dict[str, type]] = {
    'images': {'id': int, 'file_name': str},
    'annotations': {'id': int, 'image_id': int, 'category_id': int},
    'categories': {'id': int, 'name': str},
}
KEPT = set(FIELDS).union(*FIELDS.values())


def read_coco(path: str, folder: str = '') -> Source:
    """Reads COCO's instances JSON.

    An image is positive for every category that it has an object of, crowds
    included. The classes are the categories by increasing id.

    Args:
        path: The JSON file.
        folder: What to put before the file names, ``train2017`` say.

    Returns:
        Source: The images in the order of the file; their paths refer to
        the folder of the file.

    Raises:
        ConversionError: The file is not such a file, or ids are unknown or
            repeat; names the lines.
    """
    lines = EntryLines(path)
    coco = _index(_checked(path, lines))
    classes = [c['name'] for c in coco.loadCats(sorted(coco.getCatIds()))]
    examples = []
    images = coco.dataset['images']
    for index, image in enumerate(tqdm(images, desc=os.path.basename(path))):
        found = {a['category_id'] for a in coco.imgToAnns.get(image['id'], ())}
        names = tuple(coco.cats[k]['name'] for k in sorted(found))
        file_name = image['file_name']
        if folder and file_name:
            file_name = f'{folder}/{file_name}'
        examples.append(
            Example(file_name, names, path, entry=(lines, 'images', index))
        )
    root = os.path.dirname(path) or '.'
    return Source(examples, tuple(classes), root, path)


def image_ids(path: str, source: Source) -> list[str]:
    """Returns the ids of the images of COCO 2017, which name their files.

    Args:
        path: The JSON file, for the message.
        source: What :func:`read_coco` found there.

    Returns:
        list[str]: Decimal ids without leading zeros.

    Raises:
        ConversionError: A file name is not a number.
    """
    stems = [
        os.path.splitext(os.path.basename(e.path))[0] for e in source.examples
    ]
    for stem, example in zip(stems, source.examples, strict=True):
        if not (stem.isascii() and stem.isdigit()):
            raise ConversionError(
                f'{example.place}: {example.path} is not a file name of COCO '
                '2017, such as 000000554625.jpg'
            )
    return [str(int(stem)) for stem in stems]


def _checked(path: str, lines: EntryLines) -> dict[str, Any]:
    """Reads the file and checks all that pycocotools takes for granted."""
    value = read_json(path, keep=KEPT)
    problems = Problems()
    ids: dict[str, set[int]] = {}
    for key, fields in FIELDS.items():
        entries = value.get(key) if isinstance(value, dict) else None
        if not isinstance(entries, list):
            raise ConversionError(f'{path}: "{key}" must be a list')
        ids[key] = set()
        for index, fault in _faults(entries, fields, ids[key]):
            place = lines.place(key, index)
            problems.add(f'bad entries of "{key}"', f'{place}: {fault}')
    problems.check()
    for index, entry in enumerate(value['annotations']):
        for field, key in (
            ('image_id', 'images'),
            ('category_id', 'categories'),
        ):
            if entry[field] not in ids[key]:
                place = lines.place('annotations', index)
                problems.add('unknown ids', f'{place}: {field} {entry[field]}')
    problems.check()
    return value


def _faults(
    entries: list, fields: dict[str, type], seen: set[int]
) -> Iterator[tuple[int, str]]:
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield index, 'must be an object'
            continue
        wrong = [
            k for k, kind in fields.items() if type(entry.get(k)) is not kind
        ]
        if wrong:
            kind = fields[wrong[0]].__name__
            yield index, f'"{wrong[0]}" is missing or not of type {kind}'
            continue
        if entry['id'] in seen:
            yield index, f'the id {entry["id"]} repeats'
        seen.add(entry['id'])


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    return coco
