"""Annotation files in MMPretrain's JSON format, and the labels of a set."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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


@dataclass(frozen=True)
class LabelTable:
    """The positive labels of N images, image by image.

    Attributes:
        labels: Class indices, all images after one another, int32 (P,).
        offsets: Image i owns ``labels[offsets[i]:offsets[i + 1]]``, int64
            of shape (N + 1,).
    """

    labels: np.ndarray
    offsets: np.ndarray

    @property
    def num_images(self) -> int:
        """N, the number of images."""
        return len(self.offsets) - 1

    def counts(self, num_classes: int) -> np.ndarray:
        """Returns the number of images of every class, int64 (K,)."""
        return np.bincount(self.labels, minlength=num_classes)

    def images_by_class(
        self, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sorts the positives by class.

        Args:
            num_classes: K.

        Returns:
            tuple: Image indices, classes after one another and ascending
            within a class, int64 (P,); offsets, int64 (K + 1,): class k
            owns ``images[offsets[k]:offsets[k + 1]]``.
        """
        images = np.repeat(np.arange(self.num_images), np.diff(self.offsets))
        images = images[np.argsort(self.labels, kind='stable')]
        offsets = np.zeros(num_classes + 1, np.int64)
        np.cumsum(self.counts(num_classes), out=offsets[1:])
        return images, offsets

    @classmethod
    def from_lists(cls, lists: list[list[int]]) -> LabelTable:
        """Builds the table from one list of class indices per image.

        Raises:
            ValueError: A label is negative; names the image.
        """
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        flat = (label for row in lists for label in row)
        labels = np.fromiter(flat, np.int32, offsets[-1])
        if len(labels) and labels.min() < 0:
            image = offsets.searchsorted(labels.argmin(), 'right') - 1
            raise ValueError(
                f'image {image} has the label {labels.min()}; a label is the '
                'index of a class, from 0 on'
            )
        return cls(labels, offsets)


def read_labels(dataset: Any) -> LabelTable:
    """Reads the labels of every image without loading any.

    Args:
        dataset: Anything with ``__len__`` and ``get_cat_ids(index)``, the
            contract of MMPretrain's datasets and their wrappers.

    Returns:
        LabelTable: The labels in the order of the dataset.

    Raises:
        TypeError: The dataset has no ``get_cat_ids``.
    """
    table = getattr(dataset, 'label_table', None)
    if isinstance(table, LabelTable):
        return table
    if not hasattr(dataset, 'get_cat_ids'):
        raise TypeError(
            f'{type(dataset).__name__} has no get_cat_ids(index), which '
            'lists the classes of an image; use a multi-label dataset'
        )
    lists = [list(dataset.get_cat_ids(i)) for i in range(len(dataset))]
    return LabelTable.from_lists(lists)
