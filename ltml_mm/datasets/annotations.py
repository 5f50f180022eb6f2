"""Annotation files in MMPretrain's JSON format, and the labels of a set."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


def class_names(
    path: str, metainfo: Mapping[str, Any], given: Any = None
) -> list[str]:
    """Reads the class names of an annotation file.

    Args:
        path: The file, for the message.
        metainfo: Its ``metainfo``: ``classes``, a list of names, or
            ``categories``, OpenMMLab 2.0's objects with ``id`` and
            ``category_name``.
        given: The names to take where the file has no ``classes``.

    Returns:
        list[str]: The names in the order of their labels.

    Raises:
        ValueError: They are of neither form, or a name repeats.
    """
    names = metainfo.get('classes', given)
    if names is None and 'categories' in metainfo:
        try:
            rows = sorted(metainfo['categories'], key=lambda row: row['id'])
            names = [row['category_name'] for row in rows]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'{path}: "categories" of "metainfo" must list objects with '
                '"id" and "category_name"'
            ) from error
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, str) for name in names
    ):
        raise ValueError(
            f'{path}: "classes" of "metainfo" must be a list of names, got '
            f'{names!r}; or pass classes=[...]'
        )
    repeated = [name for name, n in Counter(names).items() if n > 1]
    if repeated:
        raise ValueError(f'{path}: class names repeat: {", ".join(repeated)}')
    return list(names)


def entry_fault(
    entry: Any, num_classes: int, keys: Iterable[str] = ('img_path',)
) -> str | None:
    """Says what is wrong with an entry of an annotation file.

    Args:
        entry: The entry.
        num_classes: K.
        keys: The keys that hold a path.

    Returns:
        str | None: The first fault; None if each of the paths is a text and
        ``gt_label`` a list of distinct indices from 0 to K - 1.
    """
    if not isinstance(entry, dict):
        return f'must be an object, got {entry!r}'
    for key in keys:
        if not isinstance(entry.get(key), str):
            return f'"{key}" must be a text, got {entry.get(key)!r}'
    labels = entry.get('gt_label')
    if not isinstance(labels, list):
        return f'"gt_label" must be a list of class indices, got {labels!r}'
    for label in labels:
        # True is an int, too.
        if type(label) is not int or not 0 <= label < num_classes:
            return (
                f'label {label!r} is not an integer from 0 to '
                f'{num_classes - 1}'
            )
    if len(set(labels)) != len(labels):
        return f'a label repeats in {labels}'
    return None


def leaves_folder(path: str) -> bool:
    """Tells whether a path, joined to a folder, points out of it.

    Links are followed by the converters, which look at the files.

    Args:
        path: A path, or the address of a remote file.
    """
    if os.path.isabs(path) or '://' in path:
        return True
    return os.path.normpath(path).split(os.sep)[0] == os.pardir


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
