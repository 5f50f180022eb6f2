"""Draws the curves of a training, or of several, from their JSON logs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from ltml_mm.evaluation.report import table
from ltml_mm.experiments.drawing import GROUP_COLOURS, log_ticks, picture
from ltml_mm.experiments.run_log import Curve, RunLog, read_run
from ltml_mm.files import write_bytes

#: The style of each run's lines, from the first to the last.
RUN_STYLES = ('-', (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
BRANCHES = {'uniform': 'uniform branch', 'rebalanced': 're-balanced branch'}
#: What to call the terms of the loss; Okabe and Ito's palette.
TERMS = {
    'loss': 'all together',
    **{f'{name}.loss_cls': label for name, label in BRANCHES.items()},
    'loss_consistency': 'consistency',
}
TERM_COLOURS = ('#999999', '#56B4E9', '#D55E00', '#CC79A7', '#F0E442')
AGREEMENT = {
    'agreement/rms_difference': "difference of the branches' logits (RMS)",
    'agreement/correlation': "correlation of the branches' logits",
}
METRIC = re.compile(r'(.*/)?mAP(?:_(head|medium|tail))?')
#: By the title of each pair of axes, label and colour of each logged name.
Panels = dict[str, dict[str, tuple[str, str]]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of ``tools/analysis/plot_log.py``."""
    parser = argparse.ArgumentParser(
        description='Draw the terms of the loss, the agreement of the '
        'branches and the mAP of the groups over a training'
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='[NAME=]DIR',
        help='work directory of a training; several are told apart by the '
        'style of their lines',
    )
    parser.add_argument('--out', required=True, help='PNG file to write')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the picture and prints the last value of every curve."""
    args = parse_args(argv)
    runs = [read_run(text) for text in args.runs]
    write_bytes(args.out, picture(draw)(runs))
    rows = []
    for styles in (training_panels(runs) | metric_panels(runs)).values():
        for name in styles:
            curves = [(run.train | run.val).get(name) for run in runs]
            last = [f'{[*c.values()][-1]:.4g}' if c else '' for c in curves]
            rows.append([name, *last])
    print(table(['last value', *(run.name for run in runs)], rows))


def training_panels(runs: Sequence[RunLog]) -> Panels:
    """Chooses what is drawn of the training steps."""
    names = _names([run.train for run in runs])
    losses = dict.fromkeys([*TERMS, *(n for n in names if 'loss' in n)])
    colours = zip(losses, cycle(TERM_COLOURS), strict=False)
    panels = {
        'terms of the loss (log scale)': {
            n: (TERMS.get(n, n), colour) for n, colour in colours if n in names
        }
    }
    for name, title in AGREEMENT.items():
        panels[title] = {name: ('', '#333333')} if name in names else {}
    return {title: styles for title, styles in panels.items() if styles}


def metric_panels(runs: Sequence[RunLog]) -> Panels:
    """Chooses what is drawn of the evaluations: a panel for each branch."""
    names = _names([run.val for run in runs])
    found = [match for name in names if (match := METRIC.fullmatch(name))]
    prefixes = {match[1] for match in found}
    panels: Panels = {}
    for match in found:
        title = 'mAP in %' + ', branches fused' * (len(prefixes) > 1)
        if match[1] != 'multi-label/':
            branch = (match[1] or '').split('/')[-2:][0]
            title = f'mAP in %, {BRANCHES.get(branch, branch)}'
        group = match[2] or 'all classes'
        colour = GROUP_COLOURS.get(group, '#000000')
        panels.setdefault(title, {})[match[0]] = (group, colour)
    return panels


def draw(runs: Sequence[RunLog]) -> Figure:
    """Draws the curves of runs over each other.

    Args:
        runs: What :func:`read_run` returns, for each run.

    Returns:
        Figure: The terms of the loss and the agreement of the branches
        above, the evaluations below; each line's ``gid`` is
        ``'run:logged name'``.

    Raises:
        ValueError: There are more runs than styles, two have one name, or
            some are logged by epochs and some by steps, or there is nothing
            to draw.
    """
    _check(runs)
    rows = [p for p in (training_panels(runs), metric_panels(runs)) if p]
    if not rows:
        raise ValueError('the logs hold neither a loss nor a mAP')
    width = max(len(row) for row in rows)
    size = (max(3.6 * width, 5), 3.1 * len(rows) + 0.3)
    figure = Figure(size, layout='constrained')
    if len(runs) > 1:
        handles = [
            Line2D([], [], color='black', ls=style, label=run.name)
            for run, style in zip(runs, RUN_STYLES, strict=False)
        ]
        figure.legend(
            handles=handles,
            loc='outside upper left',
            ncols=4,
            handlelength=3.5,
        )
    parts = figure.subfigures(len(rows), squeeze=False).flat
    for part, row in zip(parts, rows, strict=True):
        shared = 'mAP' in next(iter(row))
        grid = part.subplots(
            1, width, sharex=True, sharey=shared, squeeze=False
        )[0]
        for axes, (title, styles) in zip(grid, row.items(), strict=False):
            _draw_panel(axes, title, styles, runs)
        for axes in grid[len(row) :]:
            axes.remove()
        labels = dict(style for p in row.values() for style in p.values())
        handles = [
            Line2D([], [], color=colour, lw=2, label=label)
            for label, colour in labels.items()
            if label
        ]
        part.legend(handles=handles, loc='outside lower left', ncols=4)
    return figure


def _names(parts: Sequence[dict[str, Curve]]) -> list[str]:
    # In the order of the log; a group without a class is all NaN.
    names = dict.fromkeys(name for part in parts for name in part)
    return [
        name
        for name in names
        if any(
            math.isfinite(value)
            for part in parts
            for value in part.get(name, {}).values()
        )
    ]


def _check(runs: Sequence[RunLog]) -> None:
    if len(runs) > len(RUN_STYLES):
        raise ValueError(
            f'{len(runs)} runs, but no more than {len(RUN_STYLES)} can be '
            'told apart in one picture'
        )
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f'runs need names of their own, NAME=DIR: {names}')
    if len({run.unit for run in runs}) > 1:
        units = ', '.join(f'{run.name} by {run.unit}' for run in runs)
        raise ValueError(f'runs are logged over different units: {units}')


def _draw_panel(
    axes: Axes,
    title: str,
    styles: dict[str, tuple[str, str]],
    runs: Sequence[RunLog],
) -> None:
    for run, style in zip(runs, RUN_STYLES, strict=False):
        for name, (_, colour) in styles.items():
            curve = run.train.get(name) or run.val.get(name) or {}
            # A log axis has no place for the 0 of a term that is off.
            if 'loss' in name and not any(y > 0 for y in curve.values()):
                continue
            axes.plot(
                [*curve],
                [*curve.values()],
                color=colour,
                ls=style,
                lw=1.5,
                marker='o' if name in run.val or len(curve) == 1 else None,
                ms=3,
                gid=f'{run.name}:{name}',
            )
    if 'loss' in title:
        axes.set_yscale('log')
        log_ticks(axes.yaxis)
        low, high = axes.get_ylim()
        if high > 2000 * low:  # no room for 2 and 5 between 1 and 10
            axes.yaxis.set_major_locator(LogLocator())
    elif 'correlation' not in title:
        axes.set_ylim(bottom=0)
    axes.set_title(title, loc='left')
    axes.set_xlim(left=0)
    axes.set_xlabel(runs[0].unit)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
