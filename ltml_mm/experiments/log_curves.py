"""Draws JSON logs of one or several trainings: ``analysis/plot_log.py``."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from ltml_cli import parse
from ltml_mm.experiments.drawing import GROUP_COLOURS, log_ticks, png
from ltml_mm.files import write_bytes

#: The style of each run's lines, from the first to the last.
RUN_STYLES = ('-', (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
#: Of the terms of the loss; from Okabe and Ito's palette.
TERM_COLOURS = ('#999999', '#56B4E9', '#D55E00', '#CC79A7', '#F0E442')
METRIC = re.compile(r'(.*mAP)(?:_(head|medium|tail))?')
#: By the title of each pair of axes, label and colour of each logged name.
Panels = dict[str, dict[str, tuple[str, str]]]
LOG = '*/vis_data/scalars.json'
#: One line of a log, after the number of steps at which it was written.
Record = tuple[int, dict[str, Any]]


@dataclass
class RunLog:
    """The logged values of a training.

    Attributes:
        name: Name of the run.
        unit: What the values are logged over: ``'epoch'``, where 1.5 is in
            the middle of the second, or ``'step'``.
        curves: By logged name, the values by place: the epoch or the step.
    """

    name: str
    unit: str
    curves: dict[str, dict[float, float]] = field(default_factory=dict)


def read_log(text: str) -> RunLog:
    """Reads the log of a run, ``DIR`` or ``NAME=DIR``, by all its parts.

    Each part has a folder of its own, named by the time it began. From the
    first step on that a part logged, it stands in for the parts before: what
    they logged from there is of steps that were lost.

    Raises:
        FileNotFoundError: The directory holds no log.
        ValueError: A line of the log is broken, or no step was logged. A
            last line that a kill cut short is left out, with a message.
    """
    name, separator, path = text.partition('=')
    if not separator or Path(text).exists():
        name, path = Path(text).resolve().name, text
    files = sorted(Path(path).glob(LOG))
    if not files:
        raise FileNotFoundError(f'{path} holds no log: {LOG} is missing')
    records: list[Record] = []
    for file in files:
        part = _read_part(file)
        first = next((at for at, r in part if 'iter' in r), None)
        if first is not None:
            records = [(at, r) for at, r in records if at < first] + part
    if not records:
        raise ValueError(f'{path}: no training step was logged')
    steps = [(at, r['epoch']) for at, r in records if 'epoch' in r]
    length = _epoch_length(steps) if steps else 1
    log = RunLog(name, 'epoch' if steps else 'step')
    for at, record in records:
        is_epoch = steps and 'iter' not in record
        place = record['step'] if is_epoch else at / length
        for key, value in record.items():
            if isinstance(value, int | float):
                log.curves.setdefault(key, {})[place] = float(value)
    return log


def _read_part(path: Path) -> list[Record]:
    records: list[Record] = []
    last = 0
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            # The step of an evaluation is an epoch or a step; either way it
            # comes after the training steps before.
            last = max(last, record['step'])
        except (ValueError, TypeError, KeyError) as error:
            where = f'{path}, line {number}'
            if number < len(lines):
                raise ValueError(
                    f'{where} is no record of a step: {error!r}'
                ) from error
            print(f'{where}: cut short, left out', file=sys.stderr)
        else:
            records.append((last, record))
    return records


def _epoch_length(steps: list[tuple[int, int]]) -> float:
    """Returns the steps of an epoch, from the step and epoch of records.

    Every epoch logs first after the same number of steps. Where a single
    epoch was logged, it is taken to end with the last step logged.
    """
    at, epochs = np.array(steps).T
    epochs, first = np.unique(epochs, return_index=True)
    lengths = np.diff(at[first]) / np.diff(epochs)
    return float(np.median(lengths) if len(lengths) else at[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the picture."""
    args = parse('plot-log', argv)
    write_bytes(args.out, png(draw, [read_log(text) for text in args.runs]))


def draw(runs: Sequence[RunLog]) -> Figure:
    """Draws the curves of runs over each other.

    The terms of the loss and the agreement of the branches above, the
    evaluations below; each line's ``gid`` is ``'run:logged name'``.

    Raises:
        ValueError: There are more runs than styles, two have one name, some
            are logged by epochs and some by steps, or there is nothing to
            draw.
    """
    _check(runs)
    rows = [panels for panels in _choose_panels(runs) if panels]
    if not rows:
        raise ValueError('the logs hold neither a loss nor a mAP')
    width = max(map(len, rows))
    size = (max(3.6 * width, 5), 3.1 * len(rows) + 0.3)
    figure = Figure(size, layout='constrained')
    handles = [
        Line2D([], [], color='black', ls=style, label=run.name)
        for run, style in zip(runs, RUN_STYLES, strict=False)
    ]
    for row, panels in enumerate(rows):
        shared = None
        for column, (title, curves) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(
                len(rows), width, row * width + column, sharey=shared
            )
            _draw_panel(axes, title, curves, runs)
            shared = axes if 'mAP' in title else None
        labels = dict(style for p in panels.values() for style in p.values())
        handles += [
            Line2D([], [], color=colour, lw=2, label=label)
            for label, colour in labels.items()
            if label
        ]
    figure.legend(handles=handles, loc='outside lower left', ncols=6)
    return figure


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


def _choose_panels(runs: Sequence[RunLog]) -> tuple[Panels, Panels]:
    """Chooses what is drawn of the training steps and of the evaluations."""
    # A group without a class is all NaN, a term that is off all 0.
    names = dict.fromkeys(
        name
        for run in runs
        for name, curve in run.curves.items()
        if any(y and math.isfinite(y) for y in curve.values())
    )
    colours = cycle(TERM_COLOURS)
    training: Panels = {}
    evaluations: Panels = {}
    for name in names:
        if 'loss' in name:
            terms = training.setdefault('terms of the loss (log scale)', {})
            terms[name] = (name, next(colours))
        elif name.startswith('agreement/'):
            training[name] = {name: ('', '#333333')}
        elif match := METRIC.fullmatch(name):
            group = match[2] or 'all classes'
            metrics = evaluations.setdefault(f'{match[1]} in %', {})
            metrics[name] = (group, GROUP_COLOURS.get(group, '#000000'))
    return training, evaluations


def _draw_panel(
    axes: Axes,
    title: str,
    curves: dict[str, tuple[str, str]],
    runs: Sequence[RunLog],
) -> None:
    for run, style in zip(runs, RUN_STYLES, strict=False):
        for name, (_, colour) in curves.items():
            curve = run.curves.get(name, {})
            axes.plot(
                [*curve],
                [*curve.values()],
                color=colour,
                ls=style,
                lw=1.5,
                marker='o' if len(curve) < 20 else None,
                ms=3,
                gid=f'{run.name}:{name}',
            )
    if 'loss' in title:
        axes.set_yscale('log', nonpositive='mask')
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
