"""Compares evaluations: one bar a row for all, head, medium and tail."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from ltml_mm.analysis.drawing import STYLE
from ltml_mm.utils import write_bytes

KEYS = {
    'mAP': 'all classes',
    'mAP_head': 'head',
    'mAP_medium': 'medium',
    'mAP_tail': 'tail',
}
# Okabe and Ito's palette, the last row in the colour that stands out.
COLOURS = ('#BBBBBB', '#56B4E9', '#E69F00', '#009E73', '#CC79A7', '#0072B2')
EMPHASIS = '#D55E00'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of ``tools/analysis/plot_groups.py``."""
    parser = argparse.ArgumentParser(
        description='Compare evaluations by group of classes'
    )
    parser.add_argument(
        'rows',
        nargs='+',
        metavar='NAME=REPORT[,REPORT...]',
        help='the class reports of a row, one for each seed; the last row '
        'stands out',
    )
    parser.add_argument('--title', default='', help='above the picture')
    parser.add_argument('--out', required=True, help='PNG file to write')
    return parser.parse_args(argv)


def read_row(text: str) -> tuple[str, np.ndarray]:
    """Reads the reports of one row.

    Args:
        text: ``NAME=REPORT[,REPORT...]``.

    Returns:
        tuple: The name, and the means in percent, float64 (seeds, 4): all,
        head, medium, tail; NaN for a group without a class.

    Raises:
        ValueError: The text has another form, or a file is no class report.
    """
    name, found, paths = text.partition('=')
    if not found or not paths:
        raise ValueError(f'expected NAME=REPORT[,REPORT...], got {text!r}')
    values = []
    for path in paths.split(','):
        try:
            report: Any = json.loads(Path(path).read_text(encoding='utf-8'))
            summary = report['summary']
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f'{path} is no class report: {error}') from error
        values.append([summary.get(key, np.nan) for key in KEYS])
    return name, np.array(values, np.float64)


def draw(rows: Sequence[tuple[str, np.ndarray]], title: str = '') -> Figure:
    """Draws the means, and the standard deviation over several seeds.

    Args:
        rows: What :func:`read_row` returns, for each row.
        title: Stands above the picture.

    Returns:
        Figure: One cluster of bars for each group.
    """
    figure = Figure(figsize=(7.6, 3.2), layout='constrained')
    axes = figure.add_subplot()
    width = 0.8 / len(rows)
    colours = [*COLOURS[: len(rows) - 1], EMPHASIS]
    for index, (name, values) in enumerate(rows):
        mean = values.mean(0)
        error = values.std(0, ddof=1) if len(values) > 1 else None
        x = np.arange(len(KEYS)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(
            x,
            mean,
            width * 0.92,
            yerr=error,
            color=colours[index],
            label=name,
            error_kw={'elinewidth': 1, 'ecolor': '#333333'},
        )
        for place, value, above in zip(
            x, mean, np.zeros(4) if error is None else error, strict=True
        ):
            axes.annotate(
                f'{value:.1f}',
                (place, value + above),
                (0, 2),
                textcoords='offset points',
                ha='center',
                fontsize=7.5,
            )
    axes.set_xticks(range(len(KEYS)), [*KEYS.values()])
    axes.set_ylabel('mAP in %')
    axes.grid(visible=False, axis='x')
    axes.set_title(title, loc='left')
    figure.legend(loc='outside lower center', ncols=min(len(rows), 4))
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the picture and prints the table behind it."""
    args = parse_args(argv)
    rows = [read_row(text) for text in args.rows]
    with style.context(['default', STYLE]):
        file = io.BytesIO()
        draw(rows, args.title).savefig(
            file, format='png', metadata={'Software': None}
        )
    write_bytes(args.out, file.getvalue())
    print('| row | seeds | ' + ' | '.join(KEYS.values()) + ' |')
    print('|---|---|' + '---|' * len(KEYS))
    for name, values in rows:
        cells = [
            f'{mean:.2f} ± {deviation:.2f}'
            if len(values) > 1
            else f'{mean:.2f}'
            for mean, deviation in zip(
                values.mean(0),
                values.std(0, ddof=len(values) > 1),
                strict=True,
            )
        ]
        print(f'| {name} | {len(values)} | ' + ' | '.join(cells) + ' |')
