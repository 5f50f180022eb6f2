"""The picture of a dataset report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ltml_mm.experiments.drawing import (
    GROUP_COLOURS,
    log_ticks,
    name_labels,
    new_figure,
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


def draw_classes(report: Mapping[str, Any]) -> Figure:
    """Draws the images of every class, and its draws in every stream.

    Args:
        report: What ``build_report`` returned.

    Returns:
        Figure: One row per class, from the most to the least images: on the
        left its images, coloured by group, on the right its expected draws
        in an epoch; both on log axes.
    """
    counts = np.array([entry['images'] for entry in report['classes']])
    order = np.argsort(-counts, kind='stable')
    classes = [report['classes'][k] for k in order]
    height = min(len(classes) * ROW, MAX_HEIGHT)
    figure = new_figure(
        12,
        height + 1.9,
        'Images of every class, and draws that show it in an epoch',
        f'{report["source"]}: {report["images"]:,} images, '
        f'{len(classes)} classes',
    )
    left, right = figure.subplots(1, 2, sharey=True)
    # Every first, second, ... class, so that their names fit.
    ticks = range(0, len(classes), -(-len(classes) // round(height / ROW)))
    names = [classes[row]['name'] for row in ticks]
    left.set_yticks(ticks, fontsize=8, **name_labels(names))
    left.set_ylim(len(classes) - 0.4, -0.6)
    bars = left.barh(
        np.arange(len(classes)),
        np.maximum(counts[order], 0.8),  # a log axis has no 0
        color=[GROUP_COLOURS[entry['group']] for entry in classes],
        height=0.75,
    )
    texts = [
        f'{entry["images"]:,}' if row in ticks else ''
        for row, entry in enumerate(classes)
    ]
    left.bar_label(bars, texts, padding=3, fontsize=8)
    left.set_xlim(0.8, counts.max() * 2)
    left.set_xlabel('images with the class (log scale)')
    # A class without an image is never drawn.
    order = order[counts[order] > 0]
    _draw_streams(right, report['draws'], order)
    for axes in (left, right):
        axes.tick_params(axis='y', length=0)
        axes.grid(False, axis='y')
        axes.set_xscale('log')
        log_ticks(axes.xaxis)
    handles: list[Any] = [
        Patch(color=GROUP_COLOURS[group], label=f'{group} ({number})')
        for group, number in report['groups'].items()
    ]
    handles += right.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc='outside lower left', ncols=6)
    return figure


def _draw_streams(
    axes: Axes, draws: Mapping[str, list[float]], order: np.ndarray
) -> None:
    values = np.array([*draws.values()])[:, order]
    rows = np.arange(len(order))
    axes.hlines(rows, values.min(0), values.max(0), color='#c4c4c4', lw=2)
    for name, own, (colour, marker, size) in zip(
        draws, values, cycle(STREAM_STYLES), strict=False
    ):
        axes.plot(
            own,
            rows,
            marker,
            color=colour,
            ms=size,
            mec='white',
            mew=0.6,
            label=f'{name} draws',
        )
    axes.set_xlabel('draws that show the class, in an epoch (log scale)')
