"""The common style of all pictures, and the colours of the groups."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ltml_mm.inspection.pictures import find_fonts

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
#: How many letters of a name are shown, if that tells them apart.
NAME_SIZES = (28, 44)


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
        fontfamily=font_families([title, about]),
        linespacing=1.4,
        parse_math=False,
    )
    return figure


def name_labels(names: Sequence[str]) -> dict[str, Any]:
    """Returns the arguments of ``set_yticks`` that write class names.

    Long names are cut in the middle, since many differ at their end, and to
    more letters where they would be the same. Letters that DejaVu Sans lacks
    are in another font, or are shown as a question mark.
    """
    shown = str.maketrans(dict.fromkeys(find_fonts(names)[1], '\ufffd'))
    short: list[str] = []
    for size in NAME_SIZES:
        short = [_cut(name, size).translate(shown) for name in names]
        if len({*short}) == len({*names}):
            break
    # A dollar sign in a class name is no formula.
    return {
        'labels': short,
        'parse_math': False,
        'fontfamily': font_families(names),
    }


def _cut(name: str, size: int) -> str:
    start = size // 2
    return (
        name if len(name) <= size else f'{name[:start]}…{name[-start + 1 :]}'
    )


def font_families(texts: Sequence[str]) -> list[str]:
    """Returns the families of fonts that have the letters of texts."""
    families = []
    for path in find_fonts(texts)[0]:
        fontManager.addfont(path)
        families.append(FontProperties(fname=path).get_name())
    return families


def unknown_letters(names: Sequence[str]) -> str:
    """Returns a sentence where no font has letters of names, or nothing."""
    unknown = find_fonts(names)[1]
    if not unknown:
        return ''
    return (
        f'no font here has the letters {unknown[:20]}: the picture shows '
        'question marks; install one (Debian: fonts-noto-cjk, '
        'fonts-noto-core)'
    )


def log_ticks(axis: Axis) -> None:
    """Ticks a log axis at 1, 2, 5, 10, ... and writes 1,000, no powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.10g}'))
    axis.set_minor_locator(NullLocator())
