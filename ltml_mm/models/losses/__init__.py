"""Losses for long-tailed multi-label recognition."""

from .base import ClassStatisticsLoss
from .class_balanced_focal_loss import ClassBalancedFocalLoss
from .class_mean_loss import ClassMeanLoss
from .cross_branch_consistency_loss import CrossBranchConsistencyLoss
from .distribution_balanced_loss import DistributionBalancedLoss
from .logit_compensated_bce_loss import LogitCompensatedBCELoss
from .multi_label_ldam_loss import MultiLabelLDAMLoss
from .reweighted_bce_loss import ReweightedBCELoss

__all__ = [
    'ClassBalancedFocalLoss',
    'ClassMeanLoss',
    'ClassStatisticsLoss',
    'CrossBranchConsistencyLoss',
    'DistributionBalancedLoss',
    'LogitCompensatedBCELoss',
    'MultiLabelLDAMLoss',
    'ReweightedBCELoss',
]
