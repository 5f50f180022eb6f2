"""What the seeds of a comparison say about its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEAST_SEEDS = 3  # for an interval


@dataclass(frozen=True)
class Summary:
    """A figure over several seeds.

    Attributes:
        seeds: How many there are.
        mean: Their mean.
        std: Their sample standard deviation (``ddof=1``); None for one.
    """

    seeds: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Difference:
    """A figure minus that of a reference, paired by seed.

    Attributes:
        seeds: In how many seeds both exist.
        mean: Mean of the differences.
        interval: Both ends of the 95 % bootstrap interval of that mean;
            None for fewer than three seeds.
        ahead: In how many seeds the figure is above the reference.
    """

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    ahead: int


def summarise(values: Sequence[float]) -> Summary | None:
    """Returns the mean and the deviation; None for no value.

    Example:
        >>> summarise([1.0, 3.0])
        Summary(seeds=2, mean=2.0, std=1.4142135623730951)
    """
    if not len(values):
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), std)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Compares a row with the reference, seed by seed.

    The interval is the percentile bootstrap (Efron and Tibshirani, *An
    Introduction to the Bootstrap*, 1993, chapter 13): the differences of the
    seeds are drawn with replacement 10,000 times, and 2.5 % of the means lie
    below and above. It is too narrow with few values: of the nominal 95 %,
    an interval from five normally distributed differences covers the truth
    about 84 % of the time, and it never reaches beyond the smallest and the
    largest difference. So read it beside the number of seeds in which the
    row is ahead. It speaks of the chance of the seeds alone, not of that of
    the test images.

    Args:
        values: The figure of the row by seed.
        reference: That of the reference by seed.

    Returns:
        Difference: Over the seeds that both have; None if there is none.
        The same values give the same interval.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    pairs = np.array([values[s] - reference[s] for s in seeds])
    return Difference(
        len(seeds),
        float(pairs.mean()),
        _interval(pairs) if len(seeds) >= LEAST_SEEDS else None,
        int((pairs > 0).sum()),
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)
