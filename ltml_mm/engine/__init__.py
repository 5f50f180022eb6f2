"""Hooks and helpers around the stock Runner."""

from ltml_mm.engine.class_report_hook import ClassReportHook
from ltml_mm.engine.class_statistics_hook import ClassStatisticsHook
from ltml_mm.engine.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.guarded_optim_wrapper import (
    GuardedAmpOptimWrapper,
    GuardedOptimWrapper,
    NonFiniteError,
)
from ltml_mm.engine.numerics_hook import NumericsHook
from ltml_mm.engine.preemption_hook import PreemptionHook, TrainingStopped
from ltml_mm.engine.resume_check_hook import ResumeCheckHook
from ltml_mm.engine.safe_checkpoint_hook import SafeCheckpointHook
from ltml_mm.engine.schedule_check_hook import ScheduleCheckHook

__all__ = [
    'ClassReportHook',
    'ClassStatisticsHook',
    'ExactResumeHook',
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
    'NonFiniteError',
    'NumericsHook',
    'PreemptionHook',
    'ResumeCheckHook',
    'SafeCheckpointHook',
    'ScheduleCheckHook',
    'TrainingStopped',
]
