"""Calibration against known truth, numpy loops and scikit-learn."""

import numpy as np
import pytest
from long_tail_scores import GROUPS, draw, make_world
from scipy.optimize import minimize

from ltml_mm.decisions.calibration import (
    BINS,
    calibration_report,
    fit_calibration,
    held_out_calibrated,
    reliability,
    score_shift,
)
from ltml_mm.decisions.thresholds import logit, sigmoid


@pytest.fixture(scope='module')
def images():
    rng = np.random.default_rng(0)
    return draw(rng, 1500, make_world(rng))


def distorted(slope, offset, count=40_000, classes=3):
    """Calibrated scores whose logits were changed, and their labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (count, classes))
    targets = rng.random(logits.shape) < sigmoid(logits)
    return sigmoid((logits - offset) / slope), targets, sigmoid(logits)


@pytest.mark.parametrize('method', ['platt', 'temperature'])
def test_what_was_distorted_is_found(method):
    offset = np.array([0.5, -1, 2]) if method == 'platt' else 0
    slope = np.array([0.5, 1, 2]) if method == 'platt' else 0.4
    scores, targets, truth = distorted(slope, offset)
    found = fit_calibration(scores, targets, ['head'] * 3, method)
    np.testing.assert_allclose(found['slope'], slope * np.ones(3), rtol=0.05)
    np.testing.assert_allclose(found['offset'], offset * np.ones(3), atol=0.1)
    again = held_out_calibrated(
        scores[:3000], targets[:3000], ['head'] * 3, method
    )
    assert np.abs(again - truth[:3000]).mean() < 0.03


def test_temperature_is_the_likeliest():
    scores, targets, _ = distorted(0.7, 0, 400)
    logits = logit(scores)

    def loss(slope):
        z = np.where(targets, -1, 1) * slope[0] * logits
        return np.logaddexp(0, z).mean()

    best = minimize(loss, [1.0]).x[0]
    found = fit_calibration(scores, targets, ['head'] * 3, 'temperature')
    assert found['slope'] == pytest.approx([best] * 3, rel=1e-3)


def test_classes_that_say_nothing_take_their_groups():
    scores, targets, _ = distorted(0.5, 1.0, 600)
    targets[:, 0] = False  # without a positive
    scores[:, 1] = 1 - scores[:, 1]  # turned round
    found = fit_calibration(scores, targets, ['a', 'b', 'a'], 'platt')
    assert min(found['slope']) > 0
    assert np.isfinite(found['offset']).all()


def test_error_is_that_of_a_loop(images):
    scores, targets = images
    scores = scores.copy()
    scores[0, :3] = [0, 1, 1 / BINS]
    error, rows = reliability(scores, targets)
    expected, number = 0.0, scores.size
    for b in range(BINS):
        low, high = b / BINS, (b + 1) / BINS
        inside = (scores >= low) & (scores < high)
        if b == BINS - 1:
            inside |= scores == 1
        if inside.any():
            gap = abs(scores[inside].mean() - targets[inside].mean())
            expected += inside.sum() / number * gap
    assert error == pytest.approx(expected, abs=1e-9)
    assert sum(row[2] for row in rows) == number
    assert all(0 <= hits <= 1 for _, hits, _ in rows)


def test_shift_is_what_was_added():
    scores, targets, truth = distorted(1, -1.5)  # logits + 1.5
    found = score_shift(scores, targets)
    assert found['log_odds'] == pytest.approx(1.5, abs=0.03)
    assert found['ratio'] == pytest.approx(scores.sum() / targets.sum())
    assert score_shift(truth, targets)['log_odds'] == pytest.approx(
        0, abs=0.03
    )
    assert score_shift(scores, targets & False)['ratio'] is None


def test_report_by_group(images):
    """The tail was shifted upwards; calibration lessens every error."""
    scores, targets = images
    calibrated = held_out_calibrated(*images, GROUPS, 'platt')
    branches = {'uniform': sigmoid(logit(scores) - 1)}
    report = calibration_report(scores, calibrated, targets, GROUPS, branches)
    assert list(report) == ['all', 'head', 'medium', 'tail']
    for part in report.values():
        assert part['after']['ece'] < part['before']['ece']
        shift = part['shift']
        assert shift['']['log_odds'] - shift['uniform']['log_odds'] == (
            pytest.approx(1, abs=1e-3)
        )
    shifts = [report[g]['shift']['']['log_odds'] for g in ('head', 'tail')]
    assert shifts[1] > shifts[0] + 0.5
