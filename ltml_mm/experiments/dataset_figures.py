"""The picture of a dataset report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ltml_mm.experiments import drawing

#: Marker of a stream and its size: where markers meet, each stays in sight.
STREAM_STYLES = (('o', 7.5), ('D', 5.0), ('s', 4.0), ('v', 3.0))
ROW = 0.19  # inches that a class name in 8 points needs with some air
MAX_HEIGHT = 60.0  # inches; beyond, class names are thinned out


def draw_classes(report: Mapping[str, Any]) -> Figure:
    """Draws what ``build_report`` returned: images and draws of every class.

    One row per class, from the most to the least images: a bar for its
    images, coloured by group, and a marker for its expected draws in an epoch
    of each stream, on a log axis.
    """
    counts = np.array([entry['images'] for entry in report['classes']])
    order = np.argsort(-counts, kind='stable')
    classes = [report['classes'][k] for k in order]
    height = min(len(classes) * ROW, MAX_HEIGHT)
    figure = drawing.new_figure(
        9,
        height + 1.9,
        'Images of every class, and draws that show it in an epoch',
        f'{report["source"]}: {report["images"]:,} images, '
        f'{len(classes)} classes',
    )
    axes = figure.subplots()
    # Every first, second, ... class, so that their names fit.
    ticks = range(0, len(classes), -(-len(classes) // round(height / ROW)))
    names = [classes[row]['name'] for row in ticks]
    axes.set_yticks(ticks, fontsize=8, **drawing.name_labels(names))
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(False, axis='y')
    axes.set_xscale('log')
    drawing.log_ticks(axes.xaxis)
    axes.set_xlabel('images or draws (log scale)')
    axes.barh(
        np.arange(len(classes)),
        np.maximum(counts[order], 0.8),  # a log axis has no 0
        color=[drawing.GROUP_COLOURS[entry['group']] for entry in classes],
        height=0.75,
    )
    handles: list[Any] = [
        Patch(color=drawing.GROUP_COLOURS[group], label=f'{group} ({number})')
        for group, number in report['groups'].items()
    ]
    # A class without an image is never drawn.
    order = order[counts[order] > 0]
    for (name, draws), (marker, size) in zip(
        report['draws'].items(), cycle(STREAM_STYLES), strict=False
    ):
        handles += axes.plot(
            np.array(draws)[order],
            np.arange(len(order)),
            marker,
            color='#333333',
            ms=size,
            mec='white',
            mew=0.6,
            label=f'{name} draws',
        )
    axes.set_xlim(left=0.8)
    figure.legend(handles=handles, loc='outside lower left', ncols=5)
    return figure
