"""Errors that another class in the picture explains."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom

#: The share of false discoveries among the pairs that are listed.
LEVEL = 0.05


def false_alarms(
    targets: np.ndarray, predicted: np.ndarray, level: float = LEVEL
) -> list[dict[str, Any]]:
    r"""Finds which present class makes which absent one fire.

    Of the images without class a, those that show class p and those that do
    not are compared:

    .. math::
        P(\hat y_a = 1 \mid y_p = 1, y_a = 0) \quad\text{against}\quad
        P(\hat y_a = 1 \mid y_p = 0, y_a = 0)

    Args:
        targets: True labels, bool (N, K).
        predicted: Predicted labels, bool (N, K).
        level: The largest adjusted p-value of a pair that is listed.

    Returns:
        list[dict]: The pairs with more errors beside p than without it, the
        largest excess first:

        - ``neighbour`` and ``subject``: p and a;
        - ``errors`` of ``images``: false alarms beside p;
        - ``other_errors`` of ``other_images``: those without it;
        - ``rate`` and ``baseline``: the two shares;
        - ``excess``: errors beyond those that the baseline would give;
        - ``p_value``: of Fisher's exact test, one-sided, adjusted for all
          K (K - 1) pairs (Benjamini and Hochberg, 1995).
    """
    return _compare(targets, ~targets, predicted & ~targets, True, level)


def lonely_misses(
    targets: np.ndarray, predicted: np.ndarray, level: float = LEVEL
) -> list[dict[str, Any]]:
    r"""Finds which class is missed where its companion is absent.

    Of the images with class a, those without class p and those with it are
    compared:

    .. math::
        P(\hat y_a = 0 \mid y_p = 0, y_a = 1) \quad\text{against}\quad
        P(\hat y_a = 0 \mid y_p = 1, y_a = 1)

    Args:
        targets: True labels, bool (N, K).
        predicted: Predicted labels, bool (N, K).
        level: See :func:`false_alarms`.

    Returns:
        list[dict]: As :func:`false_alarms`, of pairs that meet in the set:
        ``errors`` of ``images`` are misses without p, the others with it.
    """
    return _compare(targets, targets, targets & ~predicted, False, level)


def _compare(
    targets: np.ndarray,
    trials: np.ndarray,
    errors: np.ndarray,
    beside: bool,
    level: float,
) -> list[dict[str, Any]]:
    """Counts trials and errors of each pair, beside p and without it."""
    # Sparse: of the 100 million pairs of 10,000 classes hardly any occur.
    present = csr_array(targets.astype(np.int64)).T.tocsr()
    errors_with = (present @ csr_array(errors.astype(np.int64))).tocsr()
    together = (present @ present.T).tocsr()
    p, a = (errors_with if beside else together).nonzero()
    p, a = p[p != a], a[p != a]
    if not len(p):
        return []
    meeting = np.asarray(together[p, a]).ravel()
    n1 = targets.sum(0)[p] - meeting if beside else meeting
    k1 = np.asarray(errors_with[p, a]).ravel()
    n0, k0 = trials.sum(0)[a] - n1, errors.sum(0)[a] - k1
    if not beside:
        n1, k1, n0, k0 = n0, k0, n1, k1
    excess = k1 - n1 * k0 / np.maximum(n0, 1)
    chance = hypergeom.sf(k1 - 1, n0 + n1, k0 + k1, n1)
    # The pairs that are not here have the p-value 1.
    pairs = targets.shape[1] * (targets.shape[1] - 1)
    chance = np.minimum(false_discovery_control(chance) * pairs / len(p), 1)
    kept = np.flatnonzero((chance <= level) & (excess > 0) & (n0 > 0))
    return [
        {
            'neighbour': int(p[i]),
            'subject': int(a[i]),
            'images': int(n1[i]),
            'errors': int(k1[i]),
            'other_images': int(n0[i]),
            'other_errors': int(k0[i]),
            'rate': float(k1[i] / n1[i]),
            'baseline': float(k0[i] / n0[i]),
            'excess': float(excess[i]),
            'p_value': float(chance[i]),
        }
        for i in kept[np.argsort(-excess[kept], kind='stable')]
    ]
