"""The pictures of a comparison, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ltml_mm.experiments.class_axis import (
    DODGE,
    NO_IMAGE,
    limits_of,
    name_classes,
    shade_groups,
    spread,
)
from ltml_mm.experiments.drawing import (
    CELL,
    GREY,
    GROUP_COLOURS,
    MAX_SIDE,
    legend,
    log_ticks,
    name_labels,
    new_figure,
    picture,
)
from ltml_mm.experiments.results import GROUPS, Runs, Spec
from ltml_mm.experiments.seed_statistics import Summary, summarise

DASHES = (0, (4, 3))
LINE = 0.34  # inches that a row with its seeds needs
COLOURS = {'total': '#333333', **GROUP_COLOURS}
# The method stands out, above the others; through a ring all is seen.
METHOD_STYLES: tuple[dict[str, Any], ...] = (
    {'color': '#D55E00', 'marker': 'D', 'ms': 6, 'mec': 'white', 'mew': 0.6},
    {'color': '#444444', 'marker': 'o', 'ms': 6.5, 'mfc': 'none', 'mew': 1.5},
    {'color': '#0072B2', 'marker': 'v', 'ms': 6, 'mec': 'white', 'mew': 0.6},
)
MOST_METHODS = len(METHOD_STYLES)


@picture
def groups(
    runs: Runs,
    specs: Sequence[Spec],
    reference: Spec,
    title: str,
    names: Mapping[str, str],
) -> Figure:
    """Draws mean, deviation and every seed of the lines, a panel a group.

    Args:
        runs: The finished runs.
        specs: The lines, from the top; each with a run at least.
        reference: The line whose mean is drawn through each panel.
        title: What is compared.
        names: What to call a line, by its text.

    Returns:
        bytes: A PNG file: four panels with the rows in common.
    """
    figure = new_figure(11, LINE * len(specs) + 1.7, title, _about(runs))
    panels = figure.subplots(1, len(GROUPS), sharey=True)
    for axes, group in zip(panels, GROUPS, strict=True):
        _draw_group(axes, runs, specs, group)
        middle = summarise([*runs.values(reference, group).values()])
        if middle is not None:
            axes.axvline(middle.mean, color=GREY, lw=1, ls=DASHES, zorder=1)
    every = np.arange(len(specs))
    texts = [names[str(spec)] for spec in specs]
    panels[0].set_yticks(every, **name_labels(texts, every))
    panels[0].set_ylim(len(specs) - 0.4, -0.6)
    dark: dict[str, Any] = {'color': COLOURS['total'], 'ls': 'none'}
    legend(
        figure,
        [
            Line2D([], [], marker='o', ms=6, label='mean', **dark),
            Line2D([], [], color=COLOURS['total'], label='± 1 deviation'),
            Line2D([], [], marker='o', ms=3, alpha=0.5, label='seed', **dark),
            Line2D(
                [],
                [],
                color=GREY,
                lw=1,
                ls=DASHES,
                label=f'mean of {names[str(reference)]}',
            ),
        ],
    )
    return figure


def _draw_group(
    axes: Axes, runs: Runs, specs: Sequence[Spec], group: str
) -> None:
    colour = COLOURS[group]
    for row, spec in enumerate(specs):
        seeds = [*runs.values(spec, group).values()]
        summary = summarise(seeds)
        if summary is None:
            continue
        axes.plot(
            seeds,
            np.full(len(seeds), row + 0.25),
            'o',
            color=colour,
            ms=3,
            mew=0,
            alpha=0.5,
        )
        axes.errorbar(
            summary.mean,
            row,
            xerr=summary.std,
            fmt='o',
            color=colour,
            ms=6,
            lw=1.6,
            mec='white',
            mew=0.6,
        )
        _write_mean(axes, row, summary)
    axes.set_title(group, loc='left', color='black', fontsize=10)
    axes.set_xlabel('mAP in %' if group == 'total' else f'mAP {group} in %')
    axes.tick_params(axis='y', length=0)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _write_mean(axes: Axes, row: int, summary: Summary) -> None:
    axes.annotate(
        f'{summary.mean:.1f}',
        (summary.mean, row),
        (0, 4),
        textcoords='offset points',
        ha='center',
        fontsize=7,
        color='#333333',
        path_effects=[withStroke(linewidth=2, foreground='white')],
    )


@picture
def classes(
    runs: Runs, specs: Sequence[Spec], title: str, names: Mapping[str, str]
) -> Figure:
    """Draws the AP of every class against its training images.

    Args:
        runs: The finished runs.
        specs: Up to three lines, the method that stands out first; each
            with a run at least.
        title: What is compared.
        names: What to call a line, by its text.

    Returns:
        bytes: A PNG file: for every class the means over the seeds, joined
        by a line.
    """
    infos = runs.found[0].classes
    counts = np.array([c.count for c in infos])
    order = np.argsort(-counts, kind='stable')
    ap = np.stack([class_means(runs, spec)[order] for spec in specs])
    width = float(np.clip(len(order) * CELL * 1.1 + 1.2, 8.5, MAX_SIDE))
    figure = new_figure(
        width, 5.6, '. '.join([title, *_leads(ap, specs, names)]), _about(runs)
    )
    axes = figure.add_subplot()
    limits = limits_of(counts)
    inches = width - 1.0
    # Along the axis, which goes from the most to the least images, 0 to 1.
    exact = np.interp(
        -np.log(np.maximum(counts[order], NO_IMAGE)), -np.log(limits), (0, 1)
    )
    x = limits[0] * (limits[1] / limits[0]) ** spread(exact, DODGE / inches)
    shade_groups(axes, [infos[k] for k in order], x, limits)
    name_classes(axes, [infos[k] for k in order], x, exact, inches)
    known = ~np.isnan(ap).all(0)
    axes.vlines(
        x[known],
        np.nanmin(ap[:, known], 0),
        np.nanmax(ap[:, known], 0),
        color='#b0b0b0',
        lw=1.2,
        zorder=2,
    )
    for place in reversed(range(len(specs))):
        axes.plot(
            x,
            ap[place],
            ls='none',
            zorder=4 - place / len(specs),
            label=names[str(specs[place])],
            **METHOD_STYLES[place],
        )
    axes.set_xscale('log')
    axes.set_xlim(limits)
    low, high = axes.get_ylim()
    axes.set_ylim(low - (high - low) * 0.04, high)  # the names of groups
    log_ticks(axes.xaxis)
    axes.grid(False, axis='x')
    axes.set_xlabel(
        'training images of the class (log scale; classes of like counts '
        'moved apart)'
    )
    axes.set_ylabel('AP in %, mean over the seeds')
    legend(figure, axes.get_legend_handles_labels()[0][::-1])
    return figure


def class_means(runs: Runs, spec: Spec) -> np.ndarray:
    """Averages the AP of every class over the seeds.

    Args:
        runs: The finished runs.
        spec: A line of the table.

    Returns:
        np.ndarray: Percent, float64 (K,); NaN for a class without an AP.
    """
    values = np.array(
        [
            [c.ap.get(spec.variant) for c in run.classes]
            for run in runs.of(spec)
        ],
        np.float64,
    )
    known = ~np.isnan(values)
    sums = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)


def _leads(
    ap: np.ndarray, specs: Sequence[Spec], names: Mapping[str, str]
) -> list[str]:
    """In how many classes the method is ahead of each of the others."""
    parts = [
        f'of {names[str(spec)]} in {(ap[0] > other).sum()} of '
        f'{(~np.isnan(ap[0] + other)).sum()} classes'
        for spec, other in zip(specs[1:], ap[1:], strict=True)
    ]
    if not parts:
        return []
    return [f'{names[str(specs[0])]} is ahead {", ".join(parts)}']


def _about(runs: Runs) -> str:
    seeds = sorted({run.seed for run in runs.found})
    return (
        f'{runs.found[0].set}: {len(runs.found)} runs, '
        f'{"seed" if len(seeds) == 1 else "seeds"} '
        + ', '.join(map(str, seeds))
    )
