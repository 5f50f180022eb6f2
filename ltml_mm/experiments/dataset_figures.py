"""The picture of a dataset report, as a PNG file in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ltml_mm.experiments.drawing import (
    GROUP_COLOURS,
    legend,
    log_ticks,
    name_labels,
    new_figure,
    picture,
)

#: Colour, marker and its size: where markers meet, each stays in sight.
STREAM_STYLES = (
    ('#555555', 'o', 7.5),
    ('#D55E00', 'D', 5.0),
    ('#CC79A7', 's', 4.0),
    ('#56B4E9', 'v', 3.0),
)
ROW = 0.19  # inches that a class name in 8 points needs with some air
MAX_HEIGHT = 60.0  # inches; beyond, class names are thinned out


@picture
def draw_classes(report: Mapping[str, Any]) -> Figure:
    """Draws the images of every class, and its draws in every stream.

    Args:
        report: What ``build_report`` returned.

    Returns:
        Figure: One row per class, from the most to the least images: on the
        left its images, coloured by group, on the right its expected draws
        in an epoch; both on log axes.
    """
    classes = sorted(report['classes'], key=lambda c: -c['images'])
    height = min(len(classes) * ROW, MAX_HEIGHT)
    ratios = [f'images {report["imbalance"]:.1f}'] + [
        f'{name} draws {f["exposure"]:.1f}'
        for name, f in report['streams'].items()
    ]
    figure = new_figure(
        12,
        height + 1.9,
        f'Most over least frequent class: {", ".join(ratios)}',
        f'{report["source"]}: {report["images"]:,} images, '
        f'{len(classes)} classes',
    )
    left, right = figure.subplots(1, 2, sharey=True)
    # Every first, second, ... class, so that their names fit.
    ticks = np.arange(0, len(classes), -(-len(classes) // round(height / ROW)))
    names = [classes[k]['name'] for k in ticks]
    left.set_yticks(ticks, fontsize=8, **name_labels(names))
    left.set_ylim(len(classes) - 0.4, -0.6)
    _draw_counts(left, report, classes)
    _draw_streams(right, report, classes)
    for axes in (left, right):
        axes.tick_params(axis='y', length=0)
        axes.grid(False, axis='y')
        axes.set_xscale('log')
        log_ticks(axes.xaxis)
    handles = [
        Patch(color=GROUP_COLOURS[group], label=f'{group} ({number})')
        for group, number in report['groups'].items()
    ]
    legend(figure, handles + right.get_legend_handles_labels()[0])
    return figure


def _draw_counts(
    axes: Axes, report: Mapping[str, Any], classes: Sequence[Mapping]
) -> None:
    counts = [c['images'] for c in classes]
    bars = axes.barh(
        np.arange(len(counts)),
        np.maximum(counts, 0.8),  # a log axis has no 0
        color=[GROUP_COLOURS[c['group']] for c in classes],
        height=0.75,
    )
    texts = [''] * len(counts)
    for row in axes.get_yticks().astype(int):
        texts[row] = f'{counts[row]:,}'
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_xlim(0.8, counts[0] * 2)
    axes.set_xlabel('images with the class (log scale)')


def _draw_streams(
    axes: Axes, report: Mapping[str, Any], classes: Sequence[Mapping]
) -> None:
    rows = [k for k, c in enumerate(classes) if c['images']]
    streams = report['streams']
    draws = np.array(
        [
            [classes[k]['draws'][name]['expected'] for k in rows]
            for name in streams
        ]
    )
    axes.hlines(rows, draws.min(0), draws.max(0), color='#c4c4c4', lw=2)
    for (name, entry), own, (colour, marker, size) in zip(
        streams.items(), draws, cycle(STREAM_STYLES), strict=False
    ):
        # Without a closed form the first epoch stands in for what is expected.
        counted = '' if entry['closed_form'] else ', counted in one epoch'
        axes.plot(
            own,
            rows,
            marker,
            color=colour,
            markersize=size,
            markeredgecolor='white',
            markeredgewidth=0.6,
            label=f'{name} draws{counted}',
        )
    length = next(iter(streams.values()))['draws_an_epoch']
    axes.set_xlabel(
        'expected draws that show the class, in an epoch of '
        f'{length:,} draws (log scale)'
    )
