"""The picture of a comparison, as a PNG file in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ltml_mm.experiments.drawing import (
    GREY,
    GROUP_COLOURS,
    legend,
    name_labels,
    new_figure,
    picture,
)
from ltml_mm.experiments.results import GROUPS, Results, mean_and_std
from ltml_mm.experiments.rows import Line

DASHES = (0, (4, 3))
ROW_HEIGHT = 0.34  # inches that a row with its seeds needs
COLOURS = {'total': '#333333', **GROUP_COLOURS}


@picture
def draw_groups(
    results: Results,
    lines: Sequence[Line],
    reference: Line,
    title: str,
) -> Figure:
    """Draws mean, deviation and every seed of the lines, a panel a group.

    Args:
        results: The results.
        lines: The lines, from the top; each with a result at least.
        reference: The line whose mean is drawn through each panel.
        title: What is compared.

    Returns:
        bytes: A PNG file: four panels with the rows in common.
    """
    figure = new_figure(
        11, ROW_HEIGHT * len(lines) + 1.7, title, _about(results)
    )
    panels = figure.subplots(1, len(GROUPS), sharey=True)
    for axes, group in zip(panels, GROUPS, strict=True):
        _draw_group(axes, results, lines, group)
        middle = [*results.values(reference, group).values()]
        if middle:
            axes.axvline(
                np.mean(middle), color=GREY, lw=1, ls=DASHES, zorder=1
            )
    every = np.arange(len(lines))
    texts = [line.label for line in lines]
    panels[0].set_yticks(every, **name_labels(texts))
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
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
                label=f'mean of {reference.label}',
            ),
        ],
    )
    return figure


def _draw_group(
    axes: Axes, results: Results, lines: Sequence[Line], group: str
) -> None:
    colour = COLOURS[group]
    for row, line in enumerate(lines):
        seeds = [*results.values(line, group).values()]
        if not seeds:
            continue
        mean, std = mean_and_std(seeds)
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
            mean,
            row,
            xerr=std,
            fmt='o',
            color=colour,
            ms=6,
            lw=1.6,
            mec='white',
            mew=0.6,
        )
        axes.annotate(
            f'{mean:.1f}',
            (mean, row),
            (0, 4),
            textcoords='offset points',
            ha='center',
            fontsize=7,
            color='#333333',
            path_effects=[withStroke(linewidth=2, foreground='white')],
        )
    axes.set_title(group, loc='left', color='black', fontsize=10)
    axes.set_xlabel('mAP in %' if group == 'total' else f'mAP {group} in %')
    axes.tick_params(axis='y', length=0)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _about(results: Results) -> str:
    seeds = sorted({result['seed'] for result in results.found})
    return (
        f'{results.found[0]["set"]}: {len(results.found)} runs, '
        f'{"seed" if len(seeds) == 1 else "seeds"} '
        + ', '.join(map(str, seeds))
    )
