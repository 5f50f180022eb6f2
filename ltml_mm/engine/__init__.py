"""Hooks and helpers around the stock Runner."""

from ltml_mm.engine.class_report_hook import ClassReportHook
from ltml_mm.engine.class_statistics_hook import ClassStatisticsHook
from ltml_mm.engine.resume_check_hook import ResumeCheckHook
from ltml_mm.engine.schedule_check_hook import ScheduleCheckHook

__all__ = [
    'ClassReportHook',
    'ClassStatisticsHook',
    'ResumeCheckHook',
    'ScheduleCheckHook',
]
