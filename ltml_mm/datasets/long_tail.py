"""Multi-label datasets that know their class statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets import MultiLabelDataset

from ltml_mm.datasets.labels import LabelTable, read_labels
from ltml_mm.statistics import COUNTS_KEY, ClassStatistics


@DATASETS.register_module()
class LongTailMultiLabelDataset(MultiLabelDataset):
    """A multi-label dataset from MMPretrain's JSON annotations.

    The annotation file is the one of MMPretrain's ``MultiLabelDataset``;
    ``class_counts`` is optional there:

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
        **kwargs: Further arguments of MMPretrain's ``MultiLabelDataset``:
            ``metainfo``, ``data_root``, ``data_prefix``, ``pipeline``,
            ``indices``, ``lazy_init``, ``classes`` and so on.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ValueError: The annotation file is not JSON of that form, class names
            repeat, a label is out of range or not an integer, or the counts
            disagree with the data; names the file and the entry.
    """

    def __init__(
        self, ann_file: str, test_mode: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(ann_file=ann_file, test_mode=test_mode, **kwargs)

    #: The labels of all images, None before they are loaded.
    label_table: LabelTable | None = None

    def full_init(self) -> None:
        """Loads the annotations and, for a training set, counts them."""
        if self._fully_initialized:
            return
        super().full_init()
        self.label_table = read_labels(self)
        if self.test_mode:
            return
        counts = self.label_table.counts(len(self.CLASSES)).tolist()
        declared = self._metainfo.get(COUNTS_KEY)
        whole = self._indices is None
        if whole and declared is not None and list(declared) != counts:
            raise ValueError(
                f'{self.ann_file}: "{COUNTS_KEY}" says {list(declared)}, but '
                f'its images count {counts}; correct the entry or leave it '
                'out'
            )
        statistics = ClassStatistics(tuple(counts), len(self))
        self._metainfo.update(statistics.to_metainfo())

    def load_data_list(self) -> list[dict]:
        """Reads and checks the annotation file.

        Returns:
            list[dict]: One entry per image with ``img_path`` (joined with
            the prefix) and ``gt_label`` (list of class indices).
        """
        if not str(self.ann_file).endswith('.json'):
            raise ValueError(
                f'{self.ann_file}: the annotation file must be JSON; '
                'tools/dataset_converters/custom.py converts other formats'
            )
        # The parent ignores the file's names where others were given, and
        # with them that the labels could mean other classes.
        given = self._metainfo.pop('classes', None)
        try:
            data_list = super().load_data_list()
        except json.JSONDecodeError as error:
            raise ValueError(
                f'{self.ann_file}: not valid JSON, line {error.lineno} '
                f'column {error.colno}: {error.msg}'
            ) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{self.ann_file}: not an annotation file of MMPretrain; it '
                'must hold "metainfo" and "data_list", and every entry an '
                f'"img_path" ({type(error).__name__}: {error})'
            ) from error
        self._check_classes(given)
        for index, info in enumerate(data_list):
            self._check_labels(index, info)
        return data_list

    def _check_classes(self, given: Sequence[str] | None) -> None:
        names = self._metainfo.setdefault('classes', given)
        if not isinstance(names, Sequence) or isinstance(names, str):
            raise ValueError(
                f'{self.ann_file}: "metainfo" has no list "classes", and none '
                'was passed as classes=[...]'
            )
        if given is not None and list(given) != list(names):
            raise ValueError(
                f'{self.ann_file}: its classes {list(names)} are not those '
                f'that were expected, {list(given)}'
            )
        repeated = sorted({str(n) for n in names if names.count(n) > 1})
        if repeated:
            raise ValueError(
                f'{self.ann_file}: class names repeat: {", ".join(repeated)}'
            )

    def _check_labels(self, index: int, info: dict) -> None:
        num_classes = len(self._metainfo['classes'])
        labels = info.get('gt_label')
        place = f'{self.ann_file}: entry {index} ({info.get("img_path")})'
        if not isinstance(labels, list):
            raise ValueError(
                f'{place}: "gt_label" must be a list of class indices, got '
                f'{labels!r}'
            )
        for label in labels:
            if type(label) is not int or not 0 <= label < num_classes:
                raise ValueError(
                    f'{place}: label {label!r} is not an integer from 0 to '
                    f'{num_classes - 1}'
                )
        if len(set(labels)) != len(labels):
            raise ValueError(f'{place}: a label repeats in {labels}')
