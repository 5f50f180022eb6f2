"""Prints and saves the table of classes at the end of a run."""

from __future__ import annotations

import os
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ltml_mm.evaluation import GroupedAveragePrecision, class_table
from ltml_mm.files import write_json


@HOOKS.register_module()
class ClassReportHook(Hook):
    """Shows total, head, medium, tail and every class after a run.

    After training it shows the last validation, after testing the test, as
    a table in the log and as JSON in the work directory:
    ``val_class_report.json`` and ``test_class_report.json``, each replaced
    as a whole. It needs :class:`~ltml_mm.evaluation.GroupedAveragePrecision`
    in the evaluator and does nothing without, so it fits every config.
    """

    def after_train(self, runner: Runner) -> None:
        """Shows the last validation, if there was one."""
        self._show(runner, runner.val_loop, 'val')

    def after_test(self, runner: Runner) -> None:
        """Shows the test."""
        self._show(runner, runner.test_loop, 'test')

    @master_only
    def _show(self, runner: Runner, loop: Any, split: str) -> None:
        report = _find_report(loop)
        if report is None:
            return
        path = os.path.join(runner.work_dir, f'{split}_class_report.json')
        runner.logger.info(
            f'Average precision in percent ({path}):\n{class_table(report)}'
        )
        write_json(path, report)


def _find_report(loop: Any) -> dict[str, Any] | None:
    evaluator = getattr(loop, 'evaluator', None)
    for metric in getattr(evaluator, 'metrics', ()):
        if isinstance(metric, GroupedAveragePrecision):
            return metric.report
    return None
