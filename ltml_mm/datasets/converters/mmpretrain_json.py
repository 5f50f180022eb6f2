"""Reads MMPretrain's multi-label JSON."""

from __future__ import annotations

import os
from typing import Any

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.records import Example, Source
from ltml_mm.datasets.converters.text import EntryLines, read_json


def read_mmpretrain(path: str) -> Source:
    """Reads an annotation file of MMPretrain's ``MultiLabelDataset``.

    Args:
        path: The JSON file.

    Returns:
        Source: The images; their paths refer to the folder of the file.

    Raises:
        ConversionError: The file is not such a file; names the lines.
    """
    value = read_json(path)
    metainfo = value.get('metainfo') if isinstance(value, dict) else None
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    if not isinstance(classes, list) or not all(
        isinstance(name, str) for name in classes
    ):
        raise ConversionError(
            f'{path}: "metainfo" must hold "classes", a list of names'
        )
    entries = value.get('data_list')
    if not isinstance(entries, list):
        raise ConversionError(f'{path}: "data_list" must be a list')
    problems = Problems()
    lines = EntryLines(path)
    examples = []
    for index, entry in enumerate(entries):
        fault = _fault(entry, len(classes))
        if fault:
            place = lines.place('data_list', index)
            problems.add('bad entries', f'{place}: {fault}')
            continue
        names = tuple(classes[k] for k in entry['gt_label'])
        examples.append(
            Example(
                entry['img_path'],
                names,
                path,
                entry=(lines, 'data_list', index),
            )
        )
    problems.check()
    root = os.path.dirname(path) or '.'
    return Source(examples, tuple(classes), root, path)


def _fault(entry: Any, num_classes: int) -> str | None:
    if not isinstance(entry, dict):
        return 'must be an object'
    if not isinstance(entry.get('img_path'), str):
        return '"img_path" must be a text'
    labels = entry.get('gt_label')
    if not isinstance(labels, list):
        return '"gt_label" must be a list of class indices'
    for label in labels:
        if type(label) is not int or not 0 <= label < num_classes:
            return (
                f'label {label!r} is not an integer from 0 to '
                f'{num_classes - 1}'
            )
    if len(set(labels)) != len(labels):
        return f'a label repeats in {labels}'
    return None
