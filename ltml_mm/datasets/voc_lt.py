"""VOC-LT, the long-tailed subset of PASCAL VOC."""

from __future__ import annotations

from typing import Any

from mmengine.registry import DATASETS

from ltml_mm.datasets.categories import VOC_CLASSES
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset


@DATASETS.register_module()
class VOCLTDataset(LongTailMultiLabelDataset):
    """VOC-LT: 1142 images of VOC2012 to train, 4952 of VOC2007 to test.

    Objects marked difficult count as positives, in training and in test
    (protocol of the Distribution-Balanced Loss, ECCV 2020). The annotation
    files are written by ``tools/dataset_converters/voc_lt.py``; the images
    stay where the VOC archives put them:

    .. code-block:: none

        data
        ├── voc_lt
        │   ├── train.json
        │   ├── test.json
        │   └── split.json
        └── VOCdevkit
            ├── VOC2007
            │   └── JPEGImages
            └── VOC2012
                └── JPEGImages

    Args:
        data_root (str): The folder of the annotation files.
        ann_file (str): ``train.json`` or ``test.json``.
        data_prefix (str | dict): The VOCdevkit folder, to which the image
            paths in the annotation files are relative.
        **kwargs: See :class:`LongTailMultiLabelDataset`.
    """

    METAINFO = {'classes': VOC_CLASSES}  # noqa: RUF012
    CONVERTER = 'tools/dataset_converters/voc_lt.py'

    def __init__(
        self,
        ann_file: str,
        data_root: str = 'data/voc_lt',
        data_prefix: str | dict = '../VOCdevkit',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=data_prefix,
            **kwargs,
        )
