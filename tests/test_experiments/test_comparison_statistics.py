import statistics

import numpy as np
import pytest

from ltml_mm.experiments.seed_statistics import paired_difference, summarise

VALUES = {0: 57.5, 1: 59.25, 2: 58.0, 3: 61.5, 4: 60.0}
REFERENCE = {4: 59.0, 3: 60.0, 2: 58.0, 1: 58.0, 0: 58.5, 9: 0.0}


def test_mean_and_deviation_are_those_of_the_standard_library():
    found = summarise([*VALUES.values()])
    assert found.seeds == 5
    assert found.mean == pytest.approx(statistics.mean(VALUES.values()))
    assert found.std == pytest.approx(statistics.stdev(VALUES.values()))


def test_one_seed_has_no_deviation_and_none_has_nothing():
    assert summarise([61.5]).std is None
    assert summarise([]) is None


def test_differences_pair_the_seeds_that_both_have():
    found = paired_difference(VALUES, REFERENCE)
    pairs = [VALUES[s] - REFERENCE[s] for s in range(5)]
    assert found.seeds == 5
    assert found.mean == pytest.approx(statistics.mean(pairs))
    # A tie, as in seed 2, puts nobody ahead.
    assert found.ahead == 3
    assert paired_difference(VALUES, {9: 0.0}) is None


def test_interval_is_the_percentile_bootstrap_of_scipy():
    stats = pytest.importorskip('scipy.stats')
    pairs = [VALUES[s] - REFERENCE[s] for s in range(5)]
    expected = stats.bootstrap(
        (pairs,),
        np.mean,
        n_resamples=10_000,
        method='percentile',
        random_state=np.random.default_rng(7),
    ).confidence_interval
    np.testing.assert_allclose(
        paired_difference(VALUES, REFERENCE).interval, expected, atol=0.06
    )


def test_interval_of_three_seeds_is_known_exactly():
    # All draws of three are 27, those of the least value alone 1 of them,
    # more than 2.5 %: the ends are the extremes.
    found = paired_difference({0: 1.0, 1: 2.0, 2: 6.0}, {0: 0, 1: 0, 2: 0})
    assert found.interval == (1.0, 6.0)
    two = paired_difference({0: 1.0, 1: 2.0}, {0: 0, 1: 0})
    assert (two.mean, two.interval) == (1.5, None)


def test_interval_is_the_same_each_time_and_whatever_the_global_state():
    np.random.seed(0)
    first = paired_difference(VALUES, REFERENCE)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    assert paired_difference(VALUES, REFERENCE) == first
    np.random.seed(0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
