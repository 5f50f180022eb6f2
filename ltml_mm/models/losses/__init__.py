"""Losses for long-tailed multi-label recognition."""

from .base import ClassStatisticsLoss
from .class_balanced_focal_loss import (
    ClassBalancedFocalLoss,
    class_balanced_focal,
)
from .class_mean_loss import ClassMeanLoss
from .cross_branch_consistency_loss import (
    CrossBranchConsistencyLoss,
    cross_branch_consistency,
)
from .distribution_balanced_loss import (
    DistributionBalancedLoss,
    negative_tolerant_focal,
    rebalanced_weights,
)
from .logit_compensated_bce_loss import (
    LogitCompensatedBCELoss,
    logit_compensated_bce,
)
from .multi_label_ldam_loss import MultiLabelLDAMLoss, multi_label_ldam
from .reweighted_bce_loss import ReweightedBCELoss, reweighted_bce

__all__ = [
    'ClassBalancedFocalLoss',
    'ClassMeanLoss',
    'ClassStatisticsLoss',
    'CrossBranchConsistencyLoss',
    'DistributionBalancedLoss',
    'LogitCompensatedBCELoss',
    'MultiLabelLDAMLoss',
    'ReweightedBCELoss',
    'class_balanced_focal',
    'cross_branch_consistency',
    'logit_compensated_bce',
    'multi_label_ldam',
    'negative_tolerant_focal',
    'rebalanced_weights',
    'reweighted_bce',
]
