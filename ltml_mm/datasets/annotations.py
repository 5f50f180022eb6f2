"""Annotation files in MMPretrain's JSON format, and the labels of a set."""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from mmengine.fileio import get_text

from ltml_mm.class_statistics import IMAGES_KEY, ClassStatistics


def read_annotations(
    path: str,
    classes: Sequence[str] | None = None,
    keys: Iterable[str] = ('img_path',),
    allow_outside: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Reads and checks an annotation file.

    Its ``metainfo`` lists names as ``classes``, or as ``categories``
    OpenMMLab 2.0's objects with ``id`` and ``category_name``. Its
    ``data_list`` holds ``img_path`` and ``gt_label``, a list of distinct
    class indices, for each image.

    Args:
        path: The JSON file.
        classes: The class names that are expected, which the file may lack.
        keys: The keys of an entry that hold a path.
        allow_outside: Whether paths may leave the folder they are joined to.

    Returns:
        tuple: ``metainfo`` with ``classes``, and ``data_list``.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not JSON of that form, names other classes, or
            lists an image twice; names the file and the entry.
    """
    content = _read_json(path)
    names = _class_names(path, content['metainfo'], classes)
    seen: dict[str, int] = {}
    for index, entry in enumerate(content['data_list']):
        place = f'{path}: entry {index} of "data_list"'
        fault = _entry_fault(entry, len(names), keys, allow_outside)
        if fault:
            image = entry.get('img_path') if isinstance(entry, dict) else None
            raise ValueError(f'{place}{f" ({image})" * bool(image)}: {fault}')
        image = os.path.normpath(entry['img_path'])
        if seen.setdefault(image, index) != index:
            raise ValueError(
                f'{path}: entries {seen[image]} and {index} of "data_list" '
                f'are the same image ({image}); keep one of them'
            )
    return {**content['metainfo'], 'classes': names}, content['data_list']


def load_json(path: str, keep: Collection[str] | None = None) -> Any:
    """Loads a JSON file and refuses what readers of JSON disagree about.

    Of every object the keys in ``keep`` are kept, by default all.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not valid JSON, a key repeats in an object, or a
            number is NaN or infinite; names the file.
    """

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError(f'a key repeats in {reprlib.repr(pairs)}')
        return {k: v for k, v in pairs if keep is None or k in keep}

    def refuse(constant: str) -> None:
        raise ValueError(f'{constant} is not a number of JSON')

    try:
        return json.loads(
            get_text(path, encoding='utf-8-sig'),
            object_pairs_hook=as_dict,
            parse_constant=refuse,
        )
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{path}: not valid JSON: {error}') from error


def _read_json(path: str) -> dict:
    if not str(path).endswith('.json'):
        raise ValueError(
            f'{path}: the annotation file must be JSON; '
            'tools/dataset_converters/custom.py converts other formats'
        )
    content = load_json(path)
    parts = content if isinstance(content, dict) else {}
    kinds = {'metainfo': dict, 'data_list': list}
    if not all(isinstance(parts.get(k), kind) for k, kind in kinds.items()):
        raise ValueError(
            f'{path}: not an annotation file of MMPretrain; it must be an '
            'object with an object "metainfo" and a list "data_list"'
        )
    if not content['data_list']:
        raise ValueError(f'{path}: "data_list" holds no image')
    return content


def _class_names(
    path: str, metainfo: dict[str, Any], expected: Sequence[str] | None
) -> Sequence[str]:
    names = metainfo.get('classes')
    if names is None and 'categories' in metainfo:
        try:
            rows = sorted(metainfo['categories'], key=lambda row: row['id'])
            names = [row['category_name'] for row in rows]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'{path}: "categories" of "metainfo" must list objects with '
                '"id" and "category_name"'
            ) from error
    names = expected if names is None else names
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
    # MMPretrain ignores the file's names where others were given, and with
    # them that the labels could mean other classes.
    if expected is not None and list(expected) != list(names):
        raise ValueError(
            f'{path}: its classes ({len(names)}) are not those that were '
            f'expected ({len(expected)}): '
            f'{_first_difference(names, expected)}. Correct the file, or read '
            'it with a dataset for its classes, such as '
            'LongTailMultiLabelDataset without classes=[...]'
        )
    return names


def check_class_names(dataset: Any) -> None:
    """Refuses an annotation file that names other classes than its dataset.

    MMPretrain's ``MultiLabelDataset``, which merged networks are tested with,
    ignores the file's names where its config gives some.

    Raises:
        ValueError: The file lists other classes, or in another order.
    """
    path = str(getattr(dataset, 'ann_file', ''))
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    known = names and path.endswith('.json') and os.path.isfile(path)
    content = load_json(path) if known else None
    meta = content.get('metainfo') if isinstance(content, dict) else None
    if isinstance(meta, dict):
        _class_names(path, meta, names)


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    pairs = enumerate(zip_longest(found, expected))
    index, (name, wanted) = next(p for p in pairs if p[1][0] != p[1][1])
    if name is None:
        return f'class {index}, {wanted!r}, is missing'
    if wanted is None:
        return f'class {index}, {name!r}, is one too many'
    return f'class {index} is {name!r} in place of {wanted!r}'


def _entry_fault(
    entry: Any, num_classes: int, keys: Iterable[str], allow_outside: bool
) -> str | None:
    if not isinstance(entry, dict):
        return f'must be an object, got {entry!r}'
    for key in keys:
        path = entry.get(key)
        if not isinstance(path, str):
            return f'"{key}" must be a text, got {path!r}'
        # Links are followed by the converters, which look at the files.
        outside = os.path.isabs(path) or '://' in path
        outside |= os.path.normpath(path).split(os.sep)[0] == os.pardir
        if outside and not allow_outside:
            return (
                f'"{key}" {path!r} leaves the folder of the images; set '
                'allow_outside=True if you trust the file'
            )
    labels = entry.get('gt_label')
    if not isinstance(labels, list):
        return f'"gt_label" must be a list of class indices, got {labels!r}'
    for label in labels:
        # True is an int, too.
        if type(label) is not int or not 0 <= label < num_classes:
            last = num_classes - 1
            return f'label {label!r} is not an integer from 0 to {last}'
    if len(set(labels)) != len(labels):
        return f'a label repeats in {labels}'
    return None


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
        """Counts the images of every class, int64, of length K at least."""
        return np.bincount(self.labels, minlength=num_classes)

    def statistics(self, num_classes: int) -> ClassStatistics:
        """Counts the images of every class.

        Raises:
            ValueError: A label is not below ``num_classes``.
        """
        counts = tuple(self.counts(num_classes).tolist())
        if len(counts) > num_classes:
            raise ValueError(
                f'label {len(counts) - 1} is not an integer from 0 to '
                f'{num_classes - 1}'
            )
        return ClassStatistics(counts, self.num_images)

    def matrix(self, num_classes: int) -> np.ndarray:
        """Returns the labels as an array, bool (N, K)."""
        matrix = np.zeros((self.num_images, num_classes), bool)
        matrix[self._images(), self.labels] = True
        return matrix

    def images_by_class(
        self, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sorts the positives by class.

        Returns:
            tuple: Image indices, ascending within a class, int64 (P,), and
            offsets, int64 (K + 1,): class k owns
            ``images[offsets[k]:offsets[k + 1]]``.
        """
        images = self._images()[np.argsort(self.labels, kind='stable')]
        offsets = np.zeros(num_classes + 1, np.int64)
        np.cumsum(self.counts(num_classes), out=offsets[1:])
        return images, offsets

    def _images(self) -> np.ndarray:
        return np.repeat(np.arange(self.num_images), np.diff(self.offsets))

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


def has_labels(dataset: Any) -> bool:
    """Tells whether a dataset can be asked for :func:`labels_of`."""
    return hasattr(dataset, 'get_cat_ids') or hasattr(dataset, 'get_data_info')


def labels_of(dataset: Any, index: int) -> list[int]:
    """Returns the classes of an image, each once.

    A wrapper may hand ``get_data_info`` on alone, as MMEngine's
    ``ConcatDataset`` does.

    Raises:
        TypeError: The dataset names no classes.
    """
    if hasattr(dataset, 'get_cat_ids'):
        labels = dataset.get_cat_ids(index)
    else:
        info = dataset.get_data_info(index) if has_labels(dataset) else {}
        labels = info.get('gt_label')
    if labels is None:
        raise TypeError(
            f'{type(dataset).__name__} has no get_cat_ids(index), which '
            'lists the classes of an image; use a multi-label dataset'
        )
    return list(dict.fromkeys(np.atleast_1d(labels).tolist()))


def read_labels(dataset: Any) -> LabelTable:
    """Reads the labels of every image without loading any.

    Raises:
        TypeError: The dataset names no classes, see :func:`labels_of`.
    """
    table = getattr(dataset, 'label_table', None)
    if isinstance(table, LabelTable):
        return table
    lists = [labels_of(dataset, i) for i in range(len(dataset))]
    return LabelTable.from_lists(lists)


def training_metainfo(
    dataset: Any, table: LabelTable | None = None
) -> dict[str, Any]:
    """Returns the ``metainfo`` of a training set, with its images' counts.

    What wraps a dataset, such as ``KFoldDataset`` or ``RepeatDataset``,
    hands on the counts of the images within, not of those that it gives. One
    with ``test_mode`` or without labels keeps the counts that it declares.
    A ``table`` of its labels spares reading them again.
    """
    metainfo = dict(getattr(dataset, 'metainfo', {}))
    if getattr(dataset, 'test_mode', False):
        return metainfo
    if not has_labels(dataset):
        metainfo[IMAGES_KEY] = metainfo.get(IMAGES_KEY) or len(dataset)
        return metainfo
    table = table or read_labels(dataset)
    num_classes = len(metainfo.get('classes') or table.counts(0))
    return {**metainfo, **table.statistics(num_classes).to_metainfo()}
