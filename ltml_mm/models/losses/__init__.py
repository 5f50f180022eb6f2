"""Losses for long-tailed multi-label recognition."""

from .base import ClassStatisticsLoss
from .baselines import (
    ClassBalancedFocalLoss,
    ClassMeanLoss,
    DistributionBalancedLoss,
    MultiLabelLDAMLoss,
    ReweightedBCELoss,
)
from .cross_branch_consistency_loss import CrossBranchConsistencyLoss
from .logit_compensated_bce_loss import LogitCompensatedBCELoss

__all__ = [
    'ClassBalancedFocalLoss', 'ClassMeanLoss', 'ClassStatisticsLoss',
    'CrossBranchConsistencyLoss', 'DistributionBalancedLoss',
    'LogitCompensatedBCELoss', 'MultiLabelLDAMLoss', 'ReweightedBCELoss',
]  # fmt: skip
