"""Datasets and samplers for long-tailed multi-label recognition."""

from ltml_mm.datasets.annotations import LabelTable, read_labels
from ltml_mm.datasets.demo import LongTailDemoDataset
from ltml_mm.datasets.images import LoadCheckedImage
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset
from ltml_mm.datasets.published import COCOLTDataset, VOCLTDataset
from ltml_mm.datasets.samplers import (
    ClassAwareMultiLabelSampler,
    RepeatFactorSampler,
    TwoStreamSampler,
    UniformSampler,
)
from ltml_mm.datasets.transforms import (
    PackImage,
    PhotoMetricDistortion,
    RandomMirror,
    RandomRatioCrop,
)
from ltml_mm.datasets.two_stream import TwoStreamDataset

__all__ = [
    'COCOLTDataset', 'ClassAwareMultiLabelSampler', 'LabelTable',
    'LoadCheckedImage', 'LongTailDemoDataset', 'LongTailMultiLabelDataset',
    'PackImage', 'PhotoMetricDistortion', 'RandomMirror', 'RandomRatioCrop',
    'RepeatFactorSampler', 'TwoStreamDataset', 'TwoStreamSampler',
    'UniformSampler', 'VOCLTDataset', 'read_labels',
]  # fmt: skip
