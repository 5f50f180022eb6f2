"""Models and losses."""

from ltml_mm.models.collaborative import (
    CollaborativeTTA,
    CollaborativeTwoBranchClassifier,
)
from ltml_mm.models.losses import (
    CrossBranchConsistencyLoss,
    LogitCompensatedBCELoss,
)
from ltml_mm.models.parts import AttentionAtTestHead, TokenPooling
from ltml_mm.models.streams import TwoStreamDataPreprocessor

__all__ = [
    'AttentionAtTestHead', 'CollaborativeTTA',
    'CollaborativeTwoBranchClassifier', 'CrossBranchConsistencyLoss',
    'LogitCompensatedBCELoss', 'TokenPooling', 'TwoStreamDataPreprocessor',
]  # fmt: skip
