"""Multi-label datasets that know their class statistics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets import MultiLabelDataset

from ltml_mm.class_statistics import COUNTS_KEY, IMAGES_KEY, ClassStatistics
from ltml_mm.datasets.annotations import (
    LabelTable,
    check_repeats,
    class_names,
    entry_fault,
    leaves_folder,
    read_annotations,
    read_labels,
)


@DATASETS.register_module()
class LongTailMultiLabelDataset(MultiLabelDataset):
    """A multi-label dataset from MMPretrain's JSON annotations.

    The annotation file is the one of MMPretrain's ``MultiLabelDataset``;
    ``class_counts`` and ``num_train_images`` are optional there:

    .. code-block:: none

        {
          "metainfo": {
            "classes": ["cat", "dog", "person"],
            "class_counts": [20, 4, 260],
            "num_train_images": 270
          },
          "data_list": [
            {"img_path": "2008_000059.jpg", "gt_label": [1, 2]},
            {"img_path": "2008_000060.jpg", "gt_label": []}
          ]
        }

    ``metainfo`` of a training set always holds ``class_counts`` and
    ``num_train_images``, counted from the images at hand; a test set has
    those of its file, or of its ``metainfo`` argument. The metric takes the
    head, medium and tail groups from there.

    Args:
        ann_file (str): Path of the JSON file, relative to ``data_root``.
        test_mode (bool): Whether the images are test images, whose own
            counts say nothing about the groups. Defaults to False.
        allow_outside (bool): Whether image paths in the file may leave the
            folder that ``data_root`` and ``data_prefix`` name. Defaults to
            False.
        **kwargs: Further arguments of MMPretrain's ``MultiLabelDataset``:
            ``metainfo``, ``data_root``, ``data_prefix``, ``pipeline``,
            ``indices``, ``lazy_init``, ``classes`` and so on.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ValueError: The annotation file is not JSON of that form, class names
            repeat, an image path leaves its folder, an image is listed
            twice, a label is out of range or not an integer, or the counts
            disagree with the data; names the file and the entry.
    """

    #: What writes the annotation file, for the message where it is missing.
    CONVERTER = 'tools/dataset_converters/custom.py'

    def __init__(
        self,
        ann_file: str,
        test_mode: bool = False,
        allow_outside: bool = False,
        **kwargs: Any,
    ) -> None:
        self.allow_outside = allow_outside
        super().__init__(ann_file=ann_file, test_mode=test_mode, **kwargs)

    _metainfo: dict[str, Any]

    #: The labels of all images, None before they are loaded.
    label_table: LabelTable | None = None

    def full_init(self) -> None:
        """Loads the annotations and, for a training set, counts them."""
        if self._fully_initialized:
            return
        super().full_init()
        self._count()

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keeps some of the images, and counts a training set anew.

        Args:
            indices: How many from the start (from the end where negative),
                or which.
        """
        super().get_subset_(indices)
        self._count()

    def get_subset(
        self, indices: int | Sequence[int]
    ) -> LongTailMultiLabelDataset:
        """Returns a dataset of some of the images, with its own counts.

        Args:
            indices: How many from the start (from the end where negative),
                or which.

        Returns:
            LongTailMultiLabelDataset: The subset.
        """
        subset = super().get_subset(indices)
        subset._count()
        return subset

    def load_data_list(self) -> list[dict]:
        """Reads and checks the annotation file.

        Returns:
            list[dict]: One entry per image with ``img_path`` (joined with
            the prefix) and ``gt_label`` (list of class indices).
        """
        try:
            content = read_annotations(self.ann_file)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{self.ann_file}: no such annotation file; {self.CONVERTER} '
                'writes it (docs/data.md), or data_root is another folder'
            ) from error
        self._take_metainfo(content['metainfo'])
        data_list = []
        for index, entry in enumerate(content['data_list']):
            self._check_entry(index, entry)
            data_list.append(self.parse_data_info(entry))
        check_repeats(self.ann_file, content['data_list'])
        self._check_counts(data_list)
        return data_list

    def _take_metainfo(self, metainfo: dict) -> None:
        """Adds the file's meta information to what was given."""
        given = self._metainfo.get('classes')
        names = class_names(self.ann_file, metainfo, given)
        # MMPretrain ignores the file's names where others were given, and
        # with them that the labels could mean other classes.
        if given is not None and list(given) != list(names):
            raise ValueError(
                f'{self.ann_file}: its classes ({len(names)}) are not those '
                f'that were expected ({len(given)}): '
                f'{_first_difference(names, given)}. Correct the file, or '
                'read it with a dataset for its classes, such as '
                'LongTailMultiLabelDataset without classes=[...]'
            )
        self._metainfo = {**metainfo, **self._metainfo, 'classes': names}

    def _check_entry(self, index: int, entry: Any) -> None:
        num_classes = len(self._metainfo['classes'])
        fault = entry_fault(entry, num_classes, self.data_prefix)
        if fault is None and not self.allow_outside:
            fault = next(
                (
                    f'"{key}" {entry[key]!r} leaves the folder of the images; '
                    'set allow_outside=True if you trust the file'
                    for key in self.data_prefix
                    if leaves_folder(entry[key])
                ),
                None,
            )
        if fault is not None:
            image = entry.get('img_path') if isinstance(entry, dict) else None
            raise ValueError(
                f'{self.ann_file}: entry {index} of "data_list"'
                f'{f" ({image})" if image else ""}: {fault}'
            )

    def _check_counts(self, data_list: list[dict]) -> None:
        """Compares the counts that were declared with the images."""
        if COUNTS_KEY not in self._metainfo:
            return
        try:
            declared = ClassStatistics.from_metainfo(self._metainfo)
        except ValueError as error:
            raise ValueError(f'{self.ann_file}: {error}') from error
        if self.test_mode:
            return
        counts = LabelTable.from_lists(
            [entry['gt_label'] for entry in data_list]
        ).counts(declared.num_classes)
        if list(declared.counts) != counts.tolist():
            raise ValueError(
                f'{self.ann_file}: "{COUNTS_KEY}" says '
                f'{list(declared.counts)}, but its images count '
                f'{counts.tolist()}; correct the entry or leave it out (a '
                'test set is read with test_mode=True)'
            )
        if self._metainfo.get(IMAGES_KEY, len(data_list)) != len(data_list):
            raise ValueError(
                f'{self.ann_file}: "{IMAGES_KEY}" says '
                f'{declared.num_images}, but it lists {len(data_list)} '
                'images; correct the entry or leave it out'
            )

    def _count(self) -> None:
        """Takes the labels of the images at hand, and their counts."""
        self.label_table = None
        self.label_table = read_labels(self)
        if self.test_mode:
            return
        counts = self.label_table.counts(len(self.CLASSES)).tolist()
        statistics = ClassStatistics(tuple(counts), len(self))
        self._metainfo.update(statistics.to_metainfo())


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    index, (name, wanted) = next(
        (index, pair)
        for index, pair in enumerate(zip_longest(found, expected))
        if pair[0] != pair[1]
    )
    if name is None:
        return f'class {index}, {wanted!r}, is missing'
    if wanted is None:
        return f'class {index}, {name!r}, is one too many'
    return f'class {index} is {name!r} in place of {wanted!r}'
