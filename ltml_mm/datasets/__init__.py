"""Datasets and samplers for long-tailed multi-label recognition."""

from ltml_mm.datasets.coco_lt import COCOLTDataset
from ltml_mm.datasets.demo import LongTailDemoDataset
from ltml_mm.datasets.labels import LabelTable, read_labels
from ltml_mm.datasets.loading import LoadCheckedImage
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset
from ltml_mm.datasets.samplers import (
    ClassAwareMultiLabelSampler,
    TwoStreamSampler,
    UniformSampler,
)
from ltml_mm.datasets.transforms import (
    PhotoMetricDistortion,
    RandomRatioCrop,
)
from ltml_mm.datasets.two_stream import TwoStreamDataset
from ltml_mm.datasets.voc_lt import VOCLTDataset

__all__ = [
    'COCOLTDataset',
    'ClassAwareMultiLabelSampler',
    'LabelTable',
    'LoadCheckedImage',
    'LongTailDemoDataset',
    'LongTailMultiLabelDataset',
    'PhotoMetricDistortion',
    'RandomRatioCrop',
    'TwoStreamDataset',
    'TwoStreamSampler',
    'UniformSampler',
    'VOCLTDataset',
    'read_labels',
]
