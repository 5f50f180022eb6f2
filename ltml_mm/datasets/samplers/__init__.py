"""Samplers for long-tailed multi-label recognition."""

from ltml_mm.datasets.samplers.class_aware import (
    ClassAwareMultiLabelSampler,
    RepeatFactorSampler,
)
from ltml_mm.datasets.samplers.stream import (
    ImageStreamSampler,
    StreamSampler,
    UniformSampler,
)
from ltml_mm.datasets.samplers.two_stream_sampler import TwoStreamSampler

__all__ = [
    'ClassAwareMultiLabelSampler', 'ImageStreamSampler', 'RepeatFactorSampler',
    'StreamSampler', 'TwoStreamSampler', 'UniformSampler',
]  # fmt: skip
