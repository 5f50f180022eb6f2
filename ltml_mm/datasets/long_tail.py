"""Multi-label datasets that know their class statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets import MultiLabelDataset

from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.datasets.annotations import (
    LabelTable,
    read_annotations,
    read_labels,
    training_metainfo,
)
from ltml_mm.datasets.decoded_cache import open_cache
from ltml_mm.datasets.images import LoadCheckedImage


@DATASETS.register_module()
class LongTailMultiLabelDataset(MultiLabelDataset):
    """A multi-label dataset from MMPretrain's JSON annotations.

    ``class_counts`` and ``num_train_images`` are optional:

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

    ``metainfo`` of a training set holds both, counted from the images at
    hand; a test set has those of its file, or of its ``metainfo`` argument,
    for the metric's head, medium and tail groups.

    Args:
        ann_file (str): Path of the JSON file, relative to ``data_root``.
        test_mode (bool): Whether the images are test images, which are not
            counted. Defaults to False.
        allow_outside (bool): Whether image paths may leave the folder that
            ``data_root`` and ``data_prefix`` name. Defaults to False.
        image_cache (str | float | bool): Whether to keep decoded images in a
            file that all processes of the machine share: ``'auto'``, if
            they fit; a number, so many GiB of them at most; see
            :func:`~ltml_mm.datasets.decoded_cache.open_cache`. It takes
            ``LoadCheckedImage`` in the pipeline. Defaults to False.
        **kwargs: Further arguments of MMPretrain's ``MultiLabelDataset``.

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
        image_cache: str | float | bool = False,
        **kwargs: Any,
    ) -> None:
        self.allow_outside = allow_outside
        self.image_cache = image_cache
        super().__init__(ann_file=ann_file, test_mode=test_mode, **kwargs)

    _metainfo: dict[str, Any]

    #: The labels of all images, None before they are loaded.
    label_table: LabelTable | None = None

    def full_init(self) -> None:
        """Loads the annotations and, for a training set, counts them."""
        if self._fully_initialized:
            return
        super().full_init()
        # After it, since `indices` may have cut the images.
        self._count()
        if self.image_cache not in (None, False):
            self._keep_decoded(self.image_cache)

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keeps some of the images, and counts a training set anew."""
        super().get_subset_(indices)
        self._count()

    def get_subset(
        self, indices: int | Sequence[int]
    ) -> LongTailMultiLabelDataset:
        """Returns a dataset of some of the images, with its own counts."""
        subset = super().get_subset(indices)
        subset._count()
        return subset

    def load_data_list(self) -> list[dict]:
        """Reads and checks the annotation file, joining paths and prefix."""
        try:
            metainfo, entries = read_annotations(
                self.ann_file,
                self._metainfo.get('classes'),
                self.data_prefix,
                self.allow_outside,
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{self.ann_file}: no such annotation file; {self.CONVERTER} '
                'writes it (docs/data.md), or data_root is another folder'
            ) from error
        # What was given to the dataset wins over its file.
        self._metainfo = {**metainfo, **self._metainfo}
        data_list = [self.parse_data_info(entry) for entry in entries]
        self._check_counts(data_list)
        return data_list

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
        said = declared.to_metainfo()
        table = LabelTable.from_lists([e['gt_label'] for e in data_list])
        found = table.statistics(declared.num_classes).to_metainfo()
        for key, counted in found.items():
            if key in self._metainfo and said[key] != counted:
                raise ValueError(
                    f'{self.ann_file}: "{key}" says {said[key]}, but its '
                    f'images count {counted}; correct the entry or leave it '
                    'out (a test set is read with test_mode=True)'
                )

    def _keep_decoded(self, setting: str | float) -> None:
        """Gives the pipeline's loader a cache of this set's images."""
        for step in self.pipeline.transforms:
            decoding = getattr(step, 'decoding', None)
            if isinstance(step, LoadCheckedImage) and decoding is not None:
                infos = (self.get_data_info(i) for i in range(len(self)))
                images = [info['img_path'] for info in infos]
                if not any('://' in image for image in images):
                    step.cache = open_cache(images, setting, decoding)

    def _count(self) -> None:
        """Takes the labels of the images at hand, and their counts."""
        # Without the old table, which read_labels would return.
        self.label_table = None
        self.label_table = read_labels(self)
        self._metainfo.update(training_metainfo(self))
