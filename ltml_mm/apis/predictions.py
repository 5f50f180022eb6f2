"""Turns a model's scores into predicted classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from ltml_mm.datasets.images import printable

DEFAULT_THRESHOLD = 0.5


def check_batch_size(value: int) -> None:
    """Checks the number of images a step.

    Raises:
        ValueError: It is not positive.
    """
    if value < 1:
        raise ValueError(f'the batch size must be at least 1, got {value}')


def check_selection(
    threshold: float | None, topk: int | None, num_classes: int
) -> None:
    """Checks the choice of predicted classes.

    Args:
        threshold: The least score, or None.
        topk: The number of classes, or None.
        num_classes: K.

    Raises:
        ValueError: Both are given, or one is out of range.
    """
    if threshold is not None and topk is not None:
        raise ValueError('give threshold or topk, not both')
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f'threshold must be in [0, 1], got {threshold}')
    if topk is not None and not 1 <= topk <= num_classes:
        raise ValueError(
            f'topk must be from 1 to {num_classes}, the number of classes, '
            f'got {topk}'
        )


def prediction_record(
    sample: DataSample,
    class_info: Sequence[Mapping[str, Any]],
    threshold: float | None = None,
    topk: int | None = None,
) -> dict[str, Any]:
    """Turns a prediction into plain values.

    Args:
        sample: The prediction, with ``pred_score`` (K,).
        class_info: ``name``, ``group`` and ``train_images`` of each class.
        threshold: The least score of a predicted class, 0.5 by default.
        topk: The number of predicted classes; then no threshold applies.

    Returns:
        dict: ``path``; ``labels``, the entries of ``class_info`` of the
        predicted classes with their ``score``, by decreasing score; and
        ``scores``, those of all classes by name.

    Raises:
        ValueError: A score is not finite, or there is not one per class.
    """
    scores = _check_scores(sample, len(class_info))
    order = scores.argsort(descending=True, stable=True)
    if topk is not None:
        order = order[:topk]
    else:
        least = DEFAULT_THRESHOLD if threshold is None else threshold
        order = order[scores[order] >= least]
    values = scores.tolist()
    names = [info['name'] for info in class_info]
    return {
        'path': sample.get('img_path'),
        'labels': [
            {**class_info[k], 'score': values[k]} for k in order.tolist()
        ],
        'scores': dict(zip(names, values, strict=True)),
    }


def _check_scores(sample: DataSample, num_classes: int) -> Tensor:
    scores = sample.pred_score.detach().float().cpu()
    if scores.shape != (num_classes,):
        raise ValueError(
            f'the model gives {scores.numel()} scores, but {num_classes} '
            'class names are known'
        )
    if not torch.isfinite(scores).all():
        name = printable(sample.get('img_path', 'an image'))
        raise ValueError(
            f'the model gives a score that is not finite for {name}: its '
            'weights are broken'
        )
    return scores
