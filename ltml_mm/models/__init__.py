"""Models and losses."""

from ltml_mm.models.collaborative import CollaborativeTwoBranchClassifier
from ltml_mm.models.losses import (
    CrossBranchConsistencyLoss,
    LogitCompensatedBCELoss,
)
from ltml_mm.models.streams import TwoStreamDataPreprocessor
from ltml_mm.models.token_pooling import TokenPooling
from ltml_mm.models.tta import CollaborativeTTA

__all__ = [
    'CollaborativeTTA',
    'CollaborativeTwoBranchClassifier',
    'CrossBranchConsistencyLoss',
    'LogitCompensatedBCELoss',
    'TokenPooling',
    'TwoStreamDataPreprocessor',
]
