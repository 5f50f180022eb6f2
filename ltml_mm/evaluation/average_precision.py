"""Average precision, exact and with ties, for many classes at once."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    r"""Computes the average precision of every class.

    The area under the uninterpolated precision-recall curve,

    .. math::
        \text{AP} = \sum_n (R_n - R_{n-1}) P_n

    with one point per distinct score, so that the order of equal scores does
    not matter. It equals scikit-learn's ``average_precision_score``, and so
    the mean over a class's positives of the precision at their score, which
    needs two sorts of values and no argsort.

    Args:
        scores: Any real dtype of shape (N, K); a higher score means more
            likely positive. Infinities are allowed.
        targets: bool or number of shape (N, K); larger than 0.5 is positive.

    Returns:
        np.ndarray: The AP of every class from 0 to 1, float64 of shape (K,);
        NaN for a class without a positive.

    Raises:
        ValueError: The shapes differ or are not two-dimensional, or a score
            is NaN; names the first image and class with one.

    Examples:
        >>> scores = np.array([[0.9, 0.1], [0.5, 0.2], [0.5, 0.3]])
        >>> targets = np.array([[1, 0], [1, 0], [0, 0]])
        >>> average_precision(scores, targets)
        array([0.83333333,        nan])
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            'scores and targets must both have the shape (images, classes), '
            f'got {scores.shape} and {targets.shape}'
        )
    ap = np.full(scores.shape[1], np.nan)
    # Column by column: a copy of all would double the memory.
    for index in range(len(ap)):
        column = scores[:, index].copy()
        hits = column[targets[:, index] > 0.5]
        column.sort()  # NaN sorts last
        if column.size and np.isnan(column[-1]):
            image = int(np.flatnonzero(np.isnan(scores[:, index]))[0])
            raise ValueError(
                f'the score of image {image} for class {index} is NaN, which '
                'has no rank; look at the checkpoint and at the pictures of '
                'that batch'
            )
        if hits.size:
            ap[index] = _mean_precision(column, hits)
    return ap


def _mean_precision(ranked: np.ndarray, hits: np.ndarray) -> float:
    """Averages the precision at every positive's score.

    Args:
        ranked: The scores of all images, ascending.
        hits: The scores of the positives, not empty.
    """
    hits.sort()
    true = hits.size - np.searchsorted(hits, hits, side='left')
    predicted = ranked.size - np.searchsorted(ranked, hits, side='left')
    return float((true / predicted).mean())
