"""The common style of all pictures, and the colours of the groups."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Okabe and Ito's palette: told apart with any colour vision.
GROUP_COLOURS = {'head': '#0072B2', 'medium': '#E69F00', 'tail': '#009E73'}
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
    'legend.fontsize': 8.5,
    'legend.frameon': False,
    'legend.handlelength': 3,
    'figure.dpi': 130,
    'savefig.dpi': 130,
}
MAX_NAME = 28


def png(draw: Callable[..., Figure], *args: Any) -> bytes:
    """Renders what a function draws as PNG, whatever the user's own style."""
    with style.context(['default', STYLE]):
        file = io.BytesIO()
        # No version of matplotlib inside: the same data, the same bytes.
        draw(*args).savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()


def new_figure(width: float, height: float, title: str, about: str) -> Figure:
    """Makes a figure with a title and a line about its data; inches."""
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


def name_labels(names: Sequence[str]) -> dict[str, Any]:
    """Returns the arguments of ``set_yticks`` that write class names."""
    short = [
        n if len(n) <= MAX_NAME else n[: MAX_NAME - 1] + '…' for n in names
    ]
    # A dollar sign in a class name is no formula.
    return {'labels': short, 'parse_math': False}


def log_ticks(axis: Axis) -> None:
    """Ticks a log axis at 1, 2, 5, 10, ... and writes 1,000, no powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.10g}'))
    axis.set_minor_locator(NullLocator())
