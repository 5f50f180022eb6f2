"""Reads annotation files in MMPretrain's JSON format."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from mmengine.fileio import load


def read_annotations(path: str) -> dict:
    """Reads the outer form of an annotation file.

    Args:
        path: The JSON file.

    Returns:
        dict: ``metainfo``, an object, and ``data_list``, a list that is not
        empty; what stands in them is not checked.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not JSON of that form.
    """
    if not str(path).endswith('.json'):
        raise ValueError(
            f'{path}: the annotation file must be JSON; '
            'tools/dataset_converters/custom.py converts other formats'
        )
    try:
        content = load(path, file_format='json')
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{path}: not valid JSON, line {error.lineno} column '
            f'{error.colno}: {error.msg}'
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not valid JSON: {error}') from error
    fits = (
        isinstance(content, dict)
        and isinstance(content.get('metainfo'), dict)
        and isinstance(content.get('data_list'), list)
    )
    if not fits:
        raise ValueError(
            f'{path}: not an annotation file of MMPretrain; it must be an '
            'object with an object "metainfo" and a list "data_list"'
        )
    if not content['data_list']:
        raise ValueError(f'{path}: "data_list" holds no image')
    return content


def category_names(path: str, categories: Any) -> list[str]:
    """Reads class names in the form of OpenMMLab 2.0.

    Args:
        path: The annotation file, for the message.
        categories: Its objects with ``id`` and ``category_name``.

    Returns:
        list[str]: The names in the order of the ids.

    Raises:
        ValueError: It is not of that form.
    """
    try:
        ordered = sorted(categories, key=lambda category: category['id'])
        return [category['category_name'] for category in ordered]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: "categories" of "metainfo" must list objects with "id" '
            'and "category_name"'
        ) from error


def check_repeats(path: str, entries: Sequence[dict]) -> None:
    """Looks for an image that is listed, and so counted, twice.

    Args:
        path: The annotation file, for the message.
        entries: Its ``data_list``, each with ``img_path``.

    Raises:
        ValueError: There is one; names the entries.
    """
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        image = os.path.normpath(entry['img_path'])
        other = first.setdefault(image, index)
        if other != index:
            raise ValueError(
                f'{path}: entries {other} and {index} of "data_list" are the '
                f'same image ({image}); keep one of them'
            )
