"""Metrics for long-tailed multi-label recognition."""

from ltml_mm.evaluation.collector import PredictionCollector
from ltml_mm.evaluation.grouped_average_precision import (
    GroupedAveragePrecision,
    average_precision,
)
from ltml_mm.evaluation.report import class_report, class_table, mean_by_group

__all__ = [
    'GroupedAveragePrecision', 'PredictionCollector', 'average_precision',
    'class_report', 'class_table', 'mean_by_group',
]  # fmt: skip
