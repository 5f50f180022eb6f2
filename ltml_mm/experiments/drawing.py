"""How the pictures of a report look."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ltml_mm.experiments.dataset_summary import DatasetFacts

# Okabe and Ito's palette: told apart with any colour vision.
GROUP_COLOURS = {'head': '#0072B2', 'medium': '#E69F00', 'tail': '#009E73'}
# Colour, marker and its size: where markers meet, each stays in sight.
STREAM_STYLES = (
    ('#555555', 'o', 7.5),
    ('#D55E00', 'D', 5.0),
    ('#CC79A7', 's', 4.0),
    ('#56B4E9', 'v', 3.0),
)
GREY = '#666666'
STYLE = {
    'font.size': 9,
    'axes.titlesize': 9,
    'axes.titlecolor': GREY,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.axisbelow': True,
    'axes.grid': True,
    'grid.color': '#e4e4e4',
    'grid.linewidth': 0.6,
    'legend.frameon': False,
    'figure.dpi': 130,
    'savefig.dpi': 130,
}
ROW = 0.19  # inches that a class name in 8 points needs with some air
CELL = 0.155  # the same for 7 points, without
MAX_SIDE = 60.0  # inches; beyond, class names are thinned out
MAX_NAME = 28

P = ParamSpec('P')


def picture(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Renders what a function draws, whatever the user's own style."""

    @functools.wraps(draw)
    def render(*args: P.args, **kwargs: P.kwargs) -> bytes:
        with style.context(['default', STYLE]):
            file = io.BytesIO()
            # No version of matplotlib inside: the same data, the same bytes.
            draw(*args, **kwargs).savefig(
                file, format='png', metadata={'Software': None}
            )
        return file.getvalue()

    return render


def new_figure(width: float, height: float, title: str, about: str) -> Figure:
    """Makes a figure with a title and a line on what it is about.

    Args:
        width: Inches.
        height: Inches.
        title: What the picture shows, as a quantity.
        about: What it is about, below the title.
    """
    figure = Figure(figsize=(width, height), layout='constrained')
    # Constrained layout makes room for the one title that a figure has.
    figure.suptitle(
        '\n'.join([*textwrap.wrap(title, int(width * 12)), about]),
        x=0.01,
        ha='left',
        fontsize=10,
        linespacing=1.4,
        parse_math=False,
    )
    return figure


def class_axes(
    facts: DatasetFacts, order: np.ndarray, title: str
) -> tuple[Figure, Axes]:
    """Makes axes with one row per class, as high as the names need."""
    height = min(len(order) * ROW, MAX_SIDE)
    figure = new_figure(8.5, height + 1.9, title, facts.about)
    axes = figure.add_subplot()
    ticks = name_ticks(len(order), height)
    names = [facts.names[k] for k in order]
    axes.set_yticks(ticks, fontsize=8, **name_labels(names, ticks))
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(False, axis='y')
    return figure, axes


def name_ticks(size: int, inches: float, row: float = ROW) -> np.ndarray:
    """Chooses the classes of which the names fit.

    Args:
        size: Number of classes along the axis.
        inches: Length of the axis.
        row: Inches that a name needs.

    Returns:
        np.ndarray: All of them, or every second, third, ...
    """
    step = -(-size // max(1, round(inches / row)))
    return np.arange(0, size, step)


def name_labels(names: Sequence[str], ticks: np.ndarray) -> dict[str, Any]:
    """Returns the arguments of ``set_xticks`` that write class names."""
    short = [
        n if len(n) <= MAX_NAME else n[: MAX_NAME - 1] + '…' for n in names
    ]
    # A dollar sign in a class name is no formula.
    return {'labels': [short[i] for i in ticks], 'parse_math': False}


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Adds a legend below the axes, where it hides nothing."""
    figure.legend(
        handles=handles, loc='outside lower left', ncols=4, fontsize=8.5
    )


def plain_numbers() -> FuncFormatter:
    """Writes 1,000 and 0.5, no powers."""
    return FuncFormatter(lambda x, _: f'{x:,.10g}')


def log_ticks(axis: Axis) -> None:
    """Ticks a log axis at 1, 2, 5, 10, 20, ..."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
    axis.set_major_formatter(plain_numbers())
    axis.set_minor_locator(NullLocator())


def short_number(value: int) -> str:
    """Writes 9999 and 118k."""
    return str(value) if value < 10000 else f'{value / 1000:.0f}k'
