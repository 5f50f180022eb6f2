"""The results of a comparison's finished runs, and what the seeds say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ltml_mm.experiments.rows import Line
from ltml_mm.experiments.run_config import RESULT, run_folder

#: Names of the groups of classes, and the metric of each.
GROUPS = {
    'total': 'mAP',
    'head': 'mAP_head',
    'medium': 'mAP_medium',
    'tail': 'mAP_tail',
}
RESAMPLES = 10_000
LEAST_SEEDS = 3  # for an interval


@dataclass(frozen=True)
class Results:
    """The results of those runs that have finished.

    Attributes:
        found: Contents of ``result.json``, by row as asked, then by seed as
            asked.
        missing: Row and seed of the runs that are unfinished or failed.
    """

    found: list[dict[str, Any]]
    missing: list[tuple[str, int]]

    def of(self, line: Line) -> list[dict[str, Any]]:
        """Returns the results that have a line's test."""
        return [
            result
            for result in self.found
            if result['row'] == line.row and line.variant in result['metrics']
        ]

    def values(self, line: Line, group: str = 'total') -> dict[int, float]:
        """Collects the mAP of a line of the table.

        Args:
            line: The line.
            group: One of :data:`GROUPS`.

        Returns:
            dict: Percent by seed, for the seeds that have it.
        """
        found = {
            result['seed']: result['metrics'][line.variant].get(GROUPS[group])
            for result in self.of(line)
        }
        return {seed: v for seed, v in found.items() if v is not None}


def read_results(
    out: Path, rows: Sequence[str], seeds: Sequence[int]
) -> Results:
    """Reads what the finished runs of a comparison reached.

    Args:
        out: Folder of the comparison.
        rows: The rows that were asked for.
        seeds: The seeds that were asked for.

    Returns:
        Results: The results, and which are missing: a run without
        ``result.json`` is unfinished or failed.

    Raises:
        ValueError: A file is broken, is no result of its folder's run, or
            was measured on other classes than the first.
    """
    found: list[dict[str, Any]] = []
    missing: list[tuple[str, int]] = []
    for row in dict.fromkeys(rows):
        for seed in dict.fromkeys(seeds):
            path = run_folder(out, row, seed) / RESULT
            if not path.is_file():
                missing.append((row, seed))
                continue
            result = _read(path, row, seed)
            if found and _classes(result) != _classes(found[0]):
                raise ValueError(
                    f'{path}: measured on another set, or on other classes '
                    f'or training counts, than row {found[0]["row"]}, seed '
                    f'{found[0]["seed"]}'
                )
            found.append(result)
    return Results(found, missing)


def _read(path: Path, row: str, seed: int) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        if (result['row'], result['seed']) == (row, seed):
            return result
        reason = f'not the result of row {row}, seed {seed}'
    except (ValueError, KeyError, TypeError) as error:
        reason = f'no result ({type(error).__name__}: {error})'
    raise ValueError(
        f'{path}: {reason}; delete the file to have the run made again'
    )


def _classes(result: Mapping[str, Any]) -> tuple[str, list[tuple]]:
    classes = [(c['name'], c['count'], c['group']) for c in result['classes']]
    return result['set'], classes


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation (``ddof=1``).

    Args:
        values: One at least; a single one has no deviation.

    Examples:
        >>> mean_and_std([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), std


class Difference(NamedTuple):
    """A figure minus that of a reference, see :func:`paired_difference`."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    ahead: int


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
        Difference: The number of seeds that both have, the mean of their
        differences, both ends of its interval (None for fewer than three
        seeds), and in how many seeds the row is above the reference; None
        if there is no such seed. The same values give the same interval.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    pairs = np.array([values[s] - reference[s] for s in seeds])
    interval = None
    if len(pairs) >= LEAST_SEEDS:
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))
        low, high = np.percentile(pairs[draws].mean(1), [2.5, 97.5])
        interval = float(low), float(high)
    ahead = int((pairs > 0).sum())
    return Difference(len(pairs), float(pairs.mean()), interval, ahead)
