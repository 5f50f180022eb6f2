"""The picture of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ltml_mm.experiments.drawing import (
    GREY,
    GROUP_COLOURS,
    name_labels,
    new_figure,
)
from ltml_mm.experiments.results import GROUPS, Results
from ltml_mm.experiments.rows import Line

ROW_HEIGHT = 0.34  # inches that a row with its seeds needs
DARK = '#333333'
COLOURS = {'total': DARK, **GROUP_COLOURS}


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
    figure = new_figure(11, ROW_HEIGHT * len(lines) + 1.7, title, about)
    panels = figure.subplots(1, len(GROUPS), sharey=True)
    for axes, group in zip(panels, GROUPS, strict=True):
        for row, line in enumerate(lines):
            values = [*results.values(line, group).values()]
            if values:
                _draw_row(axes, row, values, COLOURS[group])
        middle = [*results.values(reference, group).values()]
        if middle:
            axes.axvline(np.mean(middle), zorder=1, color=GREY, lw=1, ls='--')
        axes.set_title(group, loc='left', color='black', fontsize=10)
        axes.set_xlabel('mAP in %')
        axes.tick_params(axis='y', length=0)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    labels = name_labels([line.label for line in lines])
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
