"""Calibrates scores, and measures how far they are from frequencies.

Scores, targets and groups are those of :mod:`~ltml_mm.decisions.choice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from ltml_mm.class_statistics import GROUPS
from ltml_mm.decisions.choice import FOLDS, PRIOR_POSITIVES, stratified_folds
from ltml_mm.decisions.thresholds import calibrate, logit, sigmoid

#: Bins of equal width, for the calibration error and the diagram.
BINS = 15
#: The most pairs of image and class that one map is fitted to.
FIT_SIZE = 1_000_000


def fit_calibration(
    scores: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    method: str,
) -> dict[str, Any]:
    """Fits the maps from scores to frequencies.

    ``'temperature'``: one slope for all classes, no offset. ``'platt'``: a
    slope and an offset a class (Platt, 1999), shrunk towards those of its
    group as thresholds are. Every slope is positive: the order of the images
    stays.

    Returns:
        dict: ``method``, ``slope`` and ``offset``, see
        :class:`~ltml_mm.decisions.thresholds.Thresholds`.

    Raises:
        ValueError: The labels hold no positive or no negative.
    """
    logits, targets = logit(scores), np.asarray(targets, bool)
    if targets.all() or not targets.any():
        raise ValueError('calibration needs images with and without labels')
    has_offset = method == 'platt'
    every = _fit(logits, targets, has_offset) or (1.0, 0.0)
    shared = np.tile(every, (targets.shape[1], 1))
    if has_offset:
        own = shared.copy()
        for name in dict.fromkeys(groups):
            inside = np.array([group == name for group in groups])
            found = _fit(logits[:, inside], targets[:, inside])
            shared[inside] = own[inside] = found or every
        for k in range(len(own)):
            own[k] = _fit(logits[:, k], targets[:, k]) or own[k]
        # What is rare decides how much is known.
        rare = np.minimum(targets.sum(0), (~targets).sum(0))
        weight = (rare / (rare + PRIOR_POSITIVES))[:, None]
        shared = weight * own + (1 - weight) * shared
    slopes, offsets = shared.T
    return {
        'method': method,
        'slope': slopes.tolist(),
        'offset': offsets.tolist(),
    }


def _fit(
    logits: np.ndarray, targets: np.ndarray, intercept: bool = True
) -> tuple[float, float] | None:
    """Fits slope and offset, None where the slope is not positive."""
    logits, labels = logits.reshape(-1), targets.reshape(-1)
    if len(labels) > FIT_SIZE:
        drawn = np.random.default_rng(0).integers(0, len(labels), FIT_SIZE)
        logits, labels = logits[drawn], labels[drawn]
    if labels.all() or not labels.any():
        return None
    model = LogisticRegression(C=1e3, fit_intercept=intercept)
    model.fit(logits[:, None], labels)
    slope = float(model.coef_[0, 0])
    offset = float(model.intercept_[0]) if intercept else 0.0
    return (slope, offset) if slope > 0 else None


def held_out_calibrated(
    scores: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    method: str,
) -> np.ndarray:
    """Calibrates every image by maps that others fitted, (N, K)."""
    found = np.array(scores, float)
    for part in stratified_folds(targets, min(FOLDS, len(targets))):
        rest = np.setdiff1d(np.arange(len(targets)), part)
        if not 0 < targets[rest].sum() < targets[rest].size:
            continue  # They show nothing; these keep their scores.
        fitted = fit_calibration(scores[rest], targets[rest], groups, method)
        found[part] = calibrate(scores[part], fitted)
    return found


def reliability(
    scores: np.ndarray, targets: np.ndarray
) -> tuple[float, list[list[float]]]:
    """Compares scores with frequencies, over all images and classes.

    Returns:
        tuple: The expected calibration error, sum over bins of
        ``n_b / n |mean score - frequency|`` (Guo et al., ICML 2017); and
        for each of the :data:`BINS` bins that is not empty its mean score,
        frequency and number.
    """
    flat = np.asarray(scores, float).reshape(-1)
    truth = np.asarray(targets, bool).reshape(-1)
    index = np.minimum((flat * BINS).astype(int), BINS - 1)
    number = np.bincount(index, minlength=BINS)
    score = np.bincount(index, flat, BINS)
    hits = np.bincount(index, truth, BINS)
    error = float(np.abs(score - hits).sum() / max(len(flat), 1))
    rows = [
        [float(score[b] / number[b]), float(hits[b] / number[b]), int(n)]
        for b, n in enumerate(number)
        if n
    ]
    return error, rows


def score_shift(scores: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Tells how far scores lie above what the labels bear out.

    Returns:
        dict: ``ratio``, the sum of the scores over the number of positives;
        and ``log_odds``, what is to be taken from every logit so that both
        are equal. None where there is no positive.
    """
    positives = int(np.count_nonzero(targets))
    if not positives or positives == np.size(targets):
        return {'ratio': None, 'log_odds': None}
    logits = logit(scores)

    def excess(shift: float) -> float:
        return sigmoid(logits - shift).sum() - positives

    ratio = float(np.sum(scores, dtype=float) / positives)
    return {'ratio': ratio, 'log_odds': brentq(excess, -40, 40)}


def calibration_report(
    scores: np.ndarray,
    calibrated: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    branches: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Measures the calibration of all classes and of each group.

    Returns:
        dict: By ``all`` and each group: ``ece`` and ``bins`` of the model's
        scores as ``before``, of calibrated ones as ``after``, and ``shift``,
        of the model as ``''`` and of each branch.
    """
    report: dict[str, dict[str, Any]] = {}
    for name in ('all', *GROUPS):
        inside = np.array([name in ('all', group) for group in groups])
        if not inside.any():
            continue
        truth = targets[:, inside]
        part = report[name] = {
            'shift': {
                key: score_shift(given[:, inside], truth)
                for key, given in {'': scores, **branches}.items()
            }
        }
        for key, given in (('before', scores), ('after', calibrated)):
            error, bins = reliability(given[:, inside], truth)
            part[key] = {'ece': error, 'bins': bins}
    return report
