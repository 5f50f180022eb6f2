"""The pictures of a dataset report, as PNG files in memory."""

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
    MAX_SIDE,
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


@picture
def class_counts(report: Mapping[str, Any]) -> Figure:
    """Draws the images of every class on a log axis, coloured by group.

    Args:
        report: What ``build_report`` returned.
    """
    classes = _by_images(report)
    most, least = classes[0], [c for c in classes if c['images']][-1]
    figure, axes = _class_axes(
        report,
        classes,
        f'{most["name"]} has {most["images"]:,} images, {least["name"]} '
        f'{least["images"]:,}: a ratio of {report["imbalance"]:.1f}',
    )
    bars = axes.barh(
        np.arange(len(classes)),
        [max(c['images'], 0.8) for c in classes],
        color=[GROUP_COLOURS[c['group']] for c in classes],
        height=0.75,
    )
    axes.set_xscale('log')
    axes.set_xlim(0.8, most['images'] * 1.8)
    axes.set_xlabel('images with the class (log scale)')
    log_ticks(axes.xaxis)
    named = {int(row) for row in axes.get_yticks()}
    texts = [
        f'{c["images"]:,}' if k in named else '' for k, c in enumerate(classes)
    ]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    head, tail = report['head_from'], report['tail_below']
    bounds = {
        'head': f'head: {head} images or more',
        'medium': f'medium: {tail} to {head - 1}',
        'tail': f'tail: fewer than {tail}',
    }
    handles = [
        Patch(color=GROUP_COLOURS[g], label=f'{bounds[g]} ({number})')
        for g, number in report['groups'].items()
    ]
    legend(figure, handles)
    return figure


@picture
def class_draws(report: Mapping[str, Any]) -> Figure:
    """Draws how often every class is seen in an epoch of every stream.

    Args:
        report: What ``build_report`` returned.
    """
    classes = [c for c in _by_images(report) if c['images']]
    streams = report['streams']
    ratios = ', '.join(
        f'{f["exposure"]:.1f} ({name})' for name, f in streams.items()
    )
    figure, axes = _class_axes(
        report,
        classes,
        f'Draws that show the most over the least seen class: {ratios}',
    )
    rows = np.arange(len(classes))
    draws = {
        name: np.array([c['draws'][name]['expected'] for c in classes])
        for name in streams
    }
    values = np.stack([*draws.values()])
    axes.hlines(rows, values.min(0), values.max(0), color='#c4c4c4', lw=2)
    for (name, own), (colour, marker, size) in zip(
        draws.items(), cycle(STREAM_STYLES), strict=False
    ):
        # Without a closed form the first epoch stands in for what is expected.
        exact = streams[name]['closed_form']
        axes.plot(
            own,
            rows,
            marker,
            color=colour,
            markersize=size,
            markeredgecolor='white',
            markeredgewidth=0.6,
            label=name if exact else f'{name} (counted in the first epoch)',
        )
    axes.set_xscale('log')
    axes.set_xlabel(
        'expected draws that show the class, in an epoch of '
        f'{next(iter(streams.values()))["draws_an_epoch"]:,} draws (log scale)'
    )
    log_ticks(axes.xaxis)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def _by_images(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(report['classes'], key=lambda c: -c['images'])


def _about(report: Mapping[str, Any]) -> str:
    return (
        f'{report["source"]}: {report["images"]:,} images, '
        f'{len(report["classes"])} classes'
    )


def _class_axes(
    report: Mapping[str, Any], classes: Sequence[Mapping], title: str
) -> tuple[Figure, Axes]:
    """Makes axes with one row per class, as high as the names need."""
    height = min(len(classes) * ROW, MAX_SIDE)
    figure = new_figure(8.5, height + 1.9, title, _about(report))
    axes = figure.add_subplot()
    # Every first, second, ... class, so that their names fit.
    ticks = np.arange(0, len(classes), -(-len(classes) // round(height / ROW)))
    labels = name_labels([c['name'] for c in classes], ticks)
    axes.set_yticks(ticks, fontsize=8, **labels)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(False, axis='y')
    return figure, axes
