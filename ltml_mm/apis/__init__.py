"""Entry points for programs: complete configs, infer on images, replays."""

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.inferencer import MultiLabelInferencer
from ltml_mm.apis.replay import replay_step

__all__ = [
    'MultiLabelInferencer',
    'load_config',
    'read_checkpoint',
    'replay_step',
]
