"""Samplers for long-tailed multi-label recognition."""

from ltml_mm.datasets.samplers.class_aware import ClassAwareMultiLabelSampler
from ltml_mm.datasets.samplers.stream import (
    ImageStreamSampler,
    StreamSampler,
)
from ltml_mm.datasets.samplers.two_stream import TwoStreamSampler
from ltml_mm.datasets.samplers.uniform import UniformSampler

__all__ = [
    'ClassAwareMultiLabelSampler',
    'ImageStreamSampler',
    'StreamSampler',
    'TwoStreamSampler',
    'UniformSampler',
]
