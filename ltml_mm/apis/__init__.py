"""Entry points for programs: complete configs, infer on images."""

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.inferencer import MultiLabelInferencer
from ltml_mm.apis.norm_statistics import NormStatisticsHook

__all__ = [
    'MultiLabelInferencer',
    'NormStatisticsHook',
    'load_config',
    'read_checkpoint',
]
