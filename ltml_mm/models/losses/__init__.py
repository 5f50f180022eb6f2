"""Losses for long-tailed multi-label recognition."""

from .cross_branch_consistency_loss import (
    CrossBranchConsistencyLoss,
    cross_branch_consistency,
)
from .logit_compensated_bce_loss import (
    LogitCompensatedBCELoss,
    logit_compensated_bce,
)

__all__ = [
    'CrossBranchConsistencyLoss',
    'LogitCompensatedBCELoss',
    'cross_branch_consistency',
    'logit_compensated_bce',
]
