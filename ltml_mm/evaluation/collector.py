"""Collects the predictions of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class PredictionCollector(BaseMetric):
    """Keeps the scores of every image, of all processes, in test order.

    Attributes:
        predictions (list[dict]): After the evaluation, on the first process:
            ``img_path``, ``scores`` (K floats), ``pred_label`` and
            ``gt_label`` (lists of class indices) of each image.
    """

    default_prefix = 'predictions'

    def __init__(self, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)
        self.predictions: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch: dicts with ``pred_score``."""
        for sample in data_samples:
            record = {
                'img_path': sample.get('img_path'),
                'scores': sample['pred_score'].tolist(),
            }
            for key in ('pred_label', 'gt_label'):
                if key in sample:
                    record[key] = sample[key].tolist()
            self.results.append(record)

    def compute_metrics(self, results: list) -> dict:
        """Takes the gathered predictions over; has no figure of its own."""
        self.predictions = results
        return {}
