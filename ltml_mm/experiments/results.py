"""The results of a comparison's finished runs, and what the seeds say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ltml_mm.class_statistics import GROUPS as CLASS_GROUPS
from ltml_mm.experiments.rows import Line
from ltml_mm.experiments.runs import RESULT, run_folder

#: Names of the groups of classes, and the metric of each.
GROUPS = {'total': 'mAP'} | {name: f'mAP_{name}' for name in CLASS_GROUPS}


@dataclass(frozen=True)
class Results:
    """The results of those runs that have finished.

    Attributes:
        found: Contents of ``result.json``, in the order of rows and seeds.
        missing: Row and seed of the runs that are unfinished or failed.
    """

    found: list[dict[str, Any]]
    missing: list[tuple[str, int]]

    def values(self, line: Line, group: str = 'total') -> dict[int, float]:
        """Collects a line's mAP in one of :data:`GROUPS`.

        Returns:
            dict: Percent by seed, for the seeds that have it.
        """
        found = {
            result['seed']: result['metrics'][line.variant].get(GROUPS[group])
            for result in self.found
            if result['row'] == line.row and line.variant in result['metrics']
        }
        return {seed: v for seed, v in found.items() if v is not None}


def read_results(
    out: Path, rows: Sequence[str], seeds: Sequence[int]
) -> Results:
    """Reads what the finished runs of a comparison reached.

    Raises:
        ValueError: A file is broken, is no result of its folder's run, or
            was measured on other classes than the first.
    """
    results = Results([], [])
    measured_on = None
    for row in dict.fromkeys(rows):
        for seed in dict.fromkeys(seeds):
            path = run_folder(out, row, seed) / RESULT
            if not path.is_file():
                results.missing.append((row, seed))
                continue
            result, classes = _read(path, row, seed)
            measured_on = measured_on or classes
            if classes != measured_on:
                first = results.found[0]
                raise ValueError(
                    f'{path}: measured on another set, or on other classes '
                    f'or training counts, than row {first["row"]}, seed '
                    f'{first["seed"]}'
                )
            results.found.append(result)
    return results


def _read(path: Path, row: str, seed: int) -> tuple[dict[str, Any], tuple]:
    """Reads a result, and what it was measured on."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        facts = ('name', 'train_images', 'group')
        classes = [[c[fact] for fact in facts] for c in result['classes']]
        if (result['row'], result['seed']) == (row, seed):
            return result, (result['set'], classes)
        reason = f'not the result of row {row}, seed {seed}'
    except (ValueError, KeyError, TypeError) as error:
        reason = f'no result ({type(error).__name__}: {error})'
    raise ValueError(
        f'{path}: {reason}; delete the file to have the run made again'
    )


class Difference(NamedTuple):
    """A figure minus that of a reference, see :func:`paired_difference`."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    ahead: int


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Compares the figures of a row with a reference, seed by seed.

    The interval is that of Student's t, which holds 95 % for normally
    distributed differences however few they are. A percentile bootstrap would
    be the least and the largest of three, and hold 75 %. It knows the seeds'
    chance alone, not that of the test images.

    Returns:
        Difference: Number of seeds that both have, mean of their
        differences, its interval (None for fewer than three seeds), and in
        how many seeds the row is above the reference; None without a common
        seed.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    pairs = np.array([values[s] - reference[s] for s in seeds])
    interval = None
    if len(pairs) >= 3:
        quantile = stats.t.ppf(0.975, len(pairs) - 1)
        half = float(quantile * pairs.std(ddof=1) / len(pairs) ** 0.5)
        interval = float(pairs.mean()) - half, float(pairs.mean()) + half
    ahead = int((pairs > 0).sum())
    return Difference(len(pairs), float(pairs.mean()), interval, ahead)
