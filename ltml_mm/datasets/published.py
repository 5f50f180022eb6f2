"""VOC-LT and COCO-LT, the published long-tailed sets."""

from __future__ import annotations

from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets.categories import VOC2007_CATEGORIES as VOC_CLASSES

from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset

# In the order of the labels, which is that of the ids in the COCO files.
COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train',
    'truck', 'boat', 'traffic light', 'fire hydrant', 'stop sign',
    'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow',
    'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag',
    'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
    'baseball bat', 'baseball glove', 'skateboard', 'surfboard',
    'tennis racket', 'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon',
    'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot',
    'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant',
    'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote',
    'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink',
    'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear',
    'hair drier', 'toothbrush',
)  # fmt: skip


@DATASETS.register_module()
class VOCLTDataset(LongTailMultiLabelDataset):
    """VOC-LT: 1142 images of VOC2012 to train, 4952 of VOC2007 to test.

    Objects marked difficult count as positives, in training and in test
    (protocol of the Distribution-Balanced Loss, ECCV 2020).
    ``tools/dataset_converters/voc_lt.py`` writes the annotation files; the
    images stay in the folders of the VOC archives, see docs/data.md.

    Args:
        ann_file (str): ``train.json`` or ``test.json``.
        data_root (str): The folder of the annotation files.
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
        kwargs.update(data_root=data_root, data_prefix=data_prefix)
        super().__init__(ann_file, **kwargs)


@DATASETS.register_module()
class COCOLTDataset(LongTailMultiLabelDataset):
    """COCO-LT: 1909 images of train2017 to train, 5000 of val2017 to test.

    All images of val2017 stay, the 48 without a label as negatives
    (protocol of the Distribution-Balanced Loss, ECCV 2020).
    ``tools/dataset_converters/coco_lt.py`` writes the annotation files; the
    images stay in the folders of the COCO archives, see docs/data.md.

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
        kwargs.update(data_root=data_root, data_prefix=data_prefix)
        super().__init__(ann_file, **kwargs)
