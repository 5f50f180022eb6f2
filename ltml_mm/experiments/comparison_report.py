"""Writes the report of a comparison: every run, the tables, the picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ltml_cli.result_parsers import VARIANTS
from ltml_mm.evaluation.report import table
from ltml_mm.experiments import drawing
from ltml_mm.experiments.results import (
    GROUPS,
    Results,
    paired_difference,
    read_results,
)
from ltml_mm.experiments.rows import Line
from ltml_mm.files import write_bytes, write_text

ROW_HEIGHT = 0.34  # inches that a row with its seeds needs
DARK = '#333333'
COLOURS = {'total': DARK, **drawing.GROUP_COLOURS}
FACTS = ('steps', 'images_per_step', 'seconds', 'device', 'drift')
EXPLANATION = (
    'mAP in percent: mean ± sample standard deviation over the seeds. A '
    'difference is that of the row minus the reference, paired by seed; in '
    "brackets Student's 95 % interval of its mean over the seeds, from three "
    'on.'
)


def write_report(
    out: Path,
    lines: Sequence[Line],
    seeds: Sequence[int],
    reference: Line,
    title: str = 'Comparison',
    chosen: Mapping[str, Any] | None = None,
    notes: str = '',
) -> list[Path]:
    """Writes what the finished runs of a comparison reached.

    ``runs.csv`` has a line for each run and test in full precision,
    ``table.md`` the means by group, the differences and what is missing,
    ``groups.png`` every line of the tables by group of classes. Without a
    finished run there is no picture, and that of an earlier report is
    removed.

    Args:
        out: Folder of the comparison.
        lines: The lines of the tables.
        seeds: The seeds that were asked for.
        reference: The line that all are compared with; one of ``lines``.
        title: Heading of the tables and the picture.
        chosen: What ``--tune`` chose for every row.
        notes: More Markdown for the end of ``table.md``.

    Raises:
        ValueError: As in :func:`~ltml_mm.experiments.results.read_results`.
    """
    results = read_results(out, [line.row for line in lines], seeds)
    tables = render_tables(results, lines, reference, title, chosen)
    write_text(out / 'runs.csv', render_runs(results))
    write_text(out / 'table.md', f'{tables}\n{notes}\n' if notes else tables)
    picture = out / 'groups.png'
    picture.unlink(missing_ok=True)
    written = [out / 'table.md', out / 'runs.csv']
    shown = [line for line in lines if results.values(line)]
    if shown:
        content = drawing.png(draw_groups, results, shown, reference, title)
        write_bytes(picture, content)
        written.append(picture)
    return written


def render_runs(results: Results) -> str:
    """Lists every finished run and each of its tests, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['row', 'variant', 'seed', *GROUPS, *FACTS])
    for result in results.found:
        for variant in filter(result['metrics'].__contains__, VARIANTS):
            metrics = result['metrics'][variant]
            writer.writerow(
                [result['row'], variant, result['seed']]
                + [metrics.get(key) for key in GROUPS.values()]
                + [result[key] for key in FACTS]
            )
    return file.getvalue()


def render_tables(
    results: Results,
    lines: Sequence[Line],
    reference: Line,
    title: str,
    chosen: Mapping[str, Any] | None = None,
) -> str:
    """Renders means, differences and what is missing, as Markdown."""
    means, differences = [], []
    for line in lines:
        cells = [_cells(results, line, reference, group) for group in GROUPS]
        averages = [mean for mean, *_ in cells]
        total, *others = (pair for _, *pair in cells)
        seeds = len(results.values(line))
        value = [str(chosen.get(line.row, '-'))] if chosen else []
        means.append([line.label, *value, seeds, *averages, *total])
        differences.append([line.label, *chain(*others)])
    versus = f'difference to {reference.label}'
    names = ['row', 'chosen'] if chosen else ['row']
    titles = chain(*((group, 'ahead in') for group in [*GROUPS][1:]))
    parts = [
        f'# {title}',
        *_protocol(results),
        table([*names, 'seeds', *GROUPS, versus, 'ahead in'], means),
        f'The {versus} within the groups:',
        table(['row', *titles], differences),
        EXPLANATION,
        _gaps(results),
    ]
    return '\n\n'.join(parts) + '\n'


def _cells(
    results: Results, line: Line, reference: Line, group: str
) -> tuple[str, str, str]:
    """Mean, difference, and in how many seeds the difference is above 0."""
    values = results.values(line, group)
    figures = [*values.values()]
    mean = f'{np.mean(figures):.2f}' if figures else '-'
    if len(figures) > 1:
        mean += f' ± {np.std(figures, ddof=1):.2f}'
    if line == reference:
        return mean, 'reference', '-'
    found = paired_difference(values, results.values(reference, group))
    if found is None:
        return mean, '-', '-'
    difference = f'{found.mean:+.2f}'
    if found.interval is not None:
        low, high = found.interval
        difference += f' [{low:+.2f}, {high:+.2f}]'
    return mean, difference, f'{found.ahead} of {found.seeds}'


def _protocol(results: Results) -> Iterator[str]:
    """States set, devices and steps, which rows may have several of."""
    if not results.found:
        return
    first = results.found[0]
    counts = [c['train_images'] for c in first['classes']]
    rows: dict[str, dict[str, None]] = {}
    for result in results.found:
        size = f'{result["steps"]:,} steps of {result["images_per_step"]:,}'
        rows.setdefault(size, {})[result['row']] = None
    seen = '; '.join(
        f'{", ".join(rows[size])}: {size} images' for size in rows
    )
    devices = dict.fromkeys(result['device'] for result in results.found)
    yield (
        f'Measured on {first["set"]}: {len(counts)} classes with '
        f'{max(counts):,} to {min(counts):,} training images, on '
        f'{", ".join(devices)}. {seen}.'
    )


def _gaps(results: Results) -> str:
    """States which of the asked runs are not in the table."""
    asked = len(results.found) + len(results.missing)
    if not results.missing:
        return f'All {asked} runs are finished and counted.'
    runs = '; '.join(f'{row} seed {seed}' for row, seed in results.missing)
    return (
        f'{len(results.missing)} of {asked} runs are missing (unfinished or '
        f'failed) and not counted: {runs}.'
    )


def draw_groups(
    results: Results, lines: Sequence[Line], reference: Line, title: str
) -> Figure:
    """Draws mean, deviation and every seed of the lines, a panel a group.

    Each line has a result at least. The mean of the reference is drawn
    through each panel.
    """
    seeds = sorted({result['seed'] for result in results.found})
    about = (
        f'{results.found[0]["set"]}: {len(results.found)} runs, seeds '
        f'{", ".join(map(str, seeds))}\nMean ± 1 deviation; small dots: '
        f'seeds; dashed: mean of {reference.label}'
    )
    figure = drawing.new_figure(
        11, ROW_HEIGHT * len(lines) + 1.7, title, about
    )
    panels = figure.subplots(1, len(GROUPS), sharey=True)
    for axes, group in zip(panels, GROUPS, strict=True):
        for row, line in enumerate(lines):
            values = [*results.values(line, group).values()]
            if values:
                _draw_row(axes, row, values, COLOURS[group])
        middle = [*results.values(reference, group).values()]
        if middle:
            axes.axvline(
                np.mean(middle), zorder=1, color=drawing.GREY, lw=1, ls='--'
            )
        axes.set_title(group, loc='left', color='black', fontsize=10)
        axes.set_xlabel('mAP in %')
        axes.tick_params(axis='y', length=0)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    labels = drawing.name_labels([line.label for line in lines])
    panels[0].set_yticks(np.arange(len(lines)), **labels)
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    return figure


def _draw_row(axes: Axes, row: int, values: list[float], colour: str) -> None:
    heights = np.full(len(values), row + 0.25)
    axes.plot(values, heights, 'o', ms=3, mew=0, color=colour, alpha=0.5)
    mean = np.mean(values)
    std = np.std(values, ddof=1) if len(values) > 1 else None
    axes.errorbar(
        mean, row, xerr=std, fmt='o', ms=6, lw=1.6, mec='white', color=colour
    )
    axes.annotate(
        f'{mean:.1f}',
        (mean, row),
        (0, 4),
        textcoords='offset points',
        ha='center',
        fontsize=7,
        color=DARK,
        path_effects=[withStroke(linewidth=2, foreground='white')],
    )
