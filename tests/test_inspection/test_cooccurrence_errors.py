import itertools

import numpy as np
import pytest
from scipy.stats import fisher_exact

from ltml_mm.inspection.cooccurrence_errors import false_alarms, lonely_misses


def draw(num_images=150, num_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.random((num_images, num_classes)) < 0.3
    predicted = targets ^ (rng.random(targets.shape) < 0.25)
    # Where class 0 is there, class 1 is predicted most often though absent.
    fires = targets[:, 0] & ~targets[:, 1]
    predicted[:, 1] |= fires & (rng.random(num_images) < 0.7)
    # Without class 2, class 3 is missed.
    lonely = targets[:, 3] & ~targets[:, 2]
    predicted[:, 3] &= ~lonely | (rng.random(num_images) < 0.4)
    return targets, predicted


def by_loop(targets, predicted, misses):
    """Counts pair by pair and image by image; p-values not adjusted."""
    found = {}
    num_classes = targets.shape[1]
    for p, a in itertools.permutations(range(num_classes), 2):
        first, second = [0, 0], [0, 0]  # images, errors
        for truth, said in zip(targets, predicted, strict=True):
            if truth[a] != misses:
                continue
            inside = first if truth[p] != misses else second
            inside[0] += 1
            inside[1] += said[a] != truth[a]
        meet = (targets[:, p] & targets[:, a]).any()
        if misses and not meet:
            continue
        table = [
            [first[1], first[0] - first[1]],
            [second[1], second[0] - second[1]],
        ]
        chance = fisher_exact(table, alternative='greater').pvalue
        found[p, a] = (*first, *second, chance)
    return found


def adjusted(found, number):
    """Benjamini and Hochberg's p-values, by their definition."""
    ranked = sorted(found, key=lambda pair: -found[pair][4])
    least, result = 1.0, {}
    for rank, pair in zip(range(len(ranked), 0, -1), ranked, strict=True):
        least = min(least, found[pair][4] * number / rank)
        result[pair] = least
    return result


@pytest.mark.parametrize('misses', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_against_a_loop(misses, seed):
    targets, predicted = draw(seed=seed)
    compute = lonely_misses if misses else false_alarms
    rows = compute(targets, predicted, level=1)
    expected = by_loop(targets, predicted, misses)
    chances = adjusted(expected, 20)
    kept = {
        pair: values
        for pair, values in expected.items()
        if values[1] / values[0] > values[3] / values[2]
    }
    assert {(r['neighbour'], r['subject']) for r in rows} == set(kept)
    for row in rows:
        pair = row['neighbour'], row['subject']
        images, errors, others, other_errors, _ = kept[pair]
        assert (row['images'], row['errors']) == (images, errors)
        assert row['other_images'] == others
        assert row['other_errors'] == other_errors
        assert row['rate'] == pytest.approx(errors / images)
        assert row['baseline'] == pytest.approx(other_errors / others)
        excess = errors - images * other_errors / others
        assert row['excess'] == pytest.approx(excess)
        assert row['p_value'] == pytest.approx(chances[pair])
    assert rows == sorted(rows, key=lambda row: -row['excess'])


def test_what_was_put_in_is_found_and_nothing_else():
    targets, predicted = draw(2000)
    alarms = false_alarms(targets, predicted)
    assert [(r['neighbour'], r['subject']) for r in alarms] == [(0, 1)]
    misses = lonely_misses(targets, predicted)
    assert [(r['neighbour'], r['subject']) for r in misses] == [(2, 3)]


def test_independent_errors_are_seldom_listed():
    rng = np.random.default_rng(1)
    listed = 0
    for _ in range(20):
        targets = rng.random((300, 6)) < 0.3
        predicted = targets ^ (rng.random(targets.shape) < 0.2)
        listed += bool(false_alarms(targets, predicted))
    assert listed <= 3  # one in twenty, by Benjamini and Hochberg


@pytest.mark.parametrize('compute', [false_alarms, lonely_misses])
def test_without_errors_there_is_no_pair(compute):
    targets, _ = draw()
    assert compute(targets, targets, level=1) == []
    assert compute(targets[:, :1], ~targets[:, :1], level=1) == []
