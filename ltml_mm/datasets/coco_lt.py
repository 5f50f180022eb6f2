"""COCO-LT, the long-tailed subset of MS COCO."""

from __future__ import annotations

from typing import Any

from mmengine.registry import DATASETS

from ltml_mm.datasets.categories import COCO_CLASSES
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset


@DATASETS.register_module()
class COCOLTDataset(LongTailMultiLabelDataset):
    """COCO-LT: 1909 images of train2017 to train, 5000 of val2017 to test.

    All images of val2017 stay, the 48 without a label as negatives
    (protocol of the Distribution-Balanced Loss, ECCV 2020). The annotation
    files are written by ``tools/dataset_converters/coco_lt.py``; the images
    stay where the COCO archives put them:

    .. code-block:: none

        data
        ├── coco_lt
        │   ├── train.json
        │   ├── test.json
        │   └── split.json
        └── coco
            ├── train2017
            └── val2017

    Args:
        ann_file (str): ``train.json`` or ``test.json``.
        data_root (str): The folder of the annotation files.
        data_prefix (str | dict): The COCO folder, to which the image paths
            in the annotation files are relative.
        **kwargs: See :class:`LongTailMultiLabelDataset`.
    """

    METAINFO = {'classes': COCO_CLASSES}  # noqa: RUF012
    CONVERTER = 'tools/dataset_converters/coco_lt.py'

    def __init__(
        self,
        ann_file: str,
        data_root: str = 'data/coco_lt',
        data_prefix: str | dict = '../coco',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=data_prefix,
            **kwargs,
        )
