"""The figures of a comparison as text: CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ltml_mm.evaluation.report import table
from ltml_mm.experiments.results import GROUPS, VARIANTS, Run, Runs, Spec
from ltml_mm.experiments.seed_statistics import (
    RESAMPLES,
    Difference,
    paired_difference,
    summarise,
)

COLUMNS = (
    *('row', 'variant', 'seed', *GROUPS),
    *('steps', 'images_per_step', 'seconds', 'device', 'drift'),
)
EXPLANATION = (
    'mAP in percent: mean ± sample standard deviation over the seeds. A '
    'difference is that of the row minus the reference, paired by seed; in '
    'brackets its 95 % percentile bootstrap interval '
    f'({RESAMPLES:,} resamples of the seeds, from three seeds on), which is '
    'too narrow with few seeds, so that the seeds in which the row is ahead '
    'stand beside it.'
)


def render_runs(runs: Runs) -> str:
    """Lists every finished run and each of its predictions, as CSV.

    Args:
        runs: The runs.

    Returns:
        str: Percent in full precision; an empty cell for a group without a
        class.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(COLUMNS)
    for run in runs.found:
        for variant in _variants(run):
            means = run.metrics[variant]
            writer.writerow(
                [run.row, variant, run.seed]
                + [means.get(key) for key in GROUPS.values()]
                + [
                    run.steps,
                    run.images_per_step,
                    run.seconds,
                    run.device,
                    run.drift,
                ]
            )
    return file.getvalue()


def render_tables(
    runs: Runs,
    specs: Sequence[Spec],
    reference: Spec,
    title: str,
    names: Mapping[str, str],
) -> str:
    """Renders the tables of a comparison.

    Args:
        runs: The finished runs, and which are missing.
        specs: The lines of the tables.
        reference: The line that all are compared with.
        title: Heading.
        names: What to call a line, by its text.

    Returns:
        str: Markdown: the means by group with the difference of the total,
        the differences within each group, and what is missing.
    """
    versus = f'difference to {names[str(reference)]}'
    groups = [group for group in GROUPS if group != 'total']
    means, differences = [], []
    for spec in specs:
        count = len(list(runs.of(spec)))
        of_group = {
            group: _difference(runs, spec, reference, group)
            for group in GROUPS
        }
        means.append(
            [names[str(spec)], count]
            + [_mean(runs.values(spec, group)) for group in GROUPS]
            + [*of_group['total']]
        )
        differences.append(
            [names[str(spec)]] + [cell for g in groups for cell in of_group[g]]
        )
    header = ['row']
    for group in groups:
        header += [group, 'ahead in']
    return (
        '\n\n'.join(
            [
                f'# {title}',
                *_protocol(runs),
                table(['row', 'seeds', *GROUPS, versus, 'ahead in'], means),
                f'The {versus} within the groups:',
                table(header, differences),
                EXPLANATION,
                *_drifts(runs),
                *_gaps(runs, specs),
            ]
        )
        + '\n'
    )


def _variants(run: Run) -> list[str]:
    known = [name for name in VARIANTS if name in run.metrics]
    return known + sorted(run.metrics.keys() - set(VARIANTS))


def _mean(values: Mapping[int, float]) -> str:
    summary = summarise([*values.values()])
    if summary is None:
        return '-'
    mean = f'{summary.mean:.2f}'
    return mean if summary.std is None else f'{mean} ± {summary.std:.2f}'


def _difference(
    runs: Runs, spec: Spec, reference: Spec, group: str
) -> tuple[str, str]:
    """Both cells: the difference, and in how many seeds it is above 0."""
    if spec == reference:
        return 'reference', '-'
    found = paired_difference(
        runs.values(spec, group), runs.values(reference, group)
    )
    if found is None:
        return '-', '-'
    return _signed(found), f'{found.ahead} of {found.seeds}'


def _signed(difference: Difference) -> str:
    text = f'{difference.mean:+.2f}'
    if difference.interval is not None:
        low, high = difference.interval
        text += f' [{low:+.2f}, {high:+.2f}]'
    return text


def _protocol(runs: Runs) -> Iterator[str]:
    """What all runs share, and what differs though it should not."""
    if not runs.found:
        return
    first = runs.found[0]
    sizes: dict[str, dict[str, None]] = {}
    for run in runs.found:
        size = f'{run.steps:,} steps of {run.images_per_step:,} images'
        sizes.setdefault(size, {})[run.row] = None
    counts = [c.count for c in first.classes]
    yield (
        f'Measured on {first.set}: {len(counts)} classes with '
        f'{max(counts):,} to {min(counts):,} training images. '
        + (
            f'Every run made {next(iter(sizes))}, on '
            if len(sizes) == 1
            else 'The runs did not all see the same number of images: '
            + '; '.join(f'{", ".join(r)}: {s}' for s, r in sizes.items())
            + '. They ran on '
        )
        + ', '.join(dict.fromkeys(run.device for run in runs.found))
        + '.'
    )


def _drifts(runs: Runs) -> Iterator[str]:
    """How far the branches lie apart, which tells where merging is safe."""
    drifts: dict[str, list[float]] = {}
    for run in runs.found:
        if run.drift is not None:
            drifts.setdefault(run.row, []).append(run.drift)
    if drifts:
        yield (
            'Drift of the branches (norm of the difference of their weights '
            'over the norm of the mean), mean over the seeds: '
            + ', '.join(f'{r} {np.mean(d):.3f}' for r, d in drifts.items())
            + '.'
        )


def _gaps(runs: Runs, specs: Sequence[Spec]) -> Iterator[str]:
    """Which of the asked runs and predictions are not in the table."""
    asked = len(runs.found) + len(runs.missing)
    if runs.missing:
        yield (
            f'{len(runs.missing)} of {asked} runs are missing (unfinished '
            f'or failed) and not counted: {_by_row(runs.missing)}.'
        )
    else:
        yield f'All {asked} runs are finished and counted.'
    for spec in specs:
        lacking = [
            (run.row, run.seed)
            for run in runs.found
            if run.row == spec.row and spec.variant not in run.metrics
        ]
        if lacking:
            yield (
                f'No prediction {spec.variant!r}, and so not counted for '
                f'{spec}: {_by_row(lacking)}.'
            )


def _by_row(runs: Sequence[tuple[str, int]]) -> str:
    seeds: dict[str, list[str]] = {}
    for row, seed in runs:
        seeds.setdefault(row, []).append(str(seed))
    return '; '.join(
        f'{row} {"seed" if len(s) == 1 else "seeds"} {", ".join(s)}'
        for row, s in seeds.items()
    )
