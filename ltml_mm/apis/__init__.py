"""Entry points for programs: complete configs, infer on images."""

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.inferencer import MultiLabelInferencer

__all__ = [
    'MultiLabelInferencer',
    'load_config',
    'read_checkpoint',
]
