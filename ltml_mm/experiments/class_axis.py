"""An axis of training images, with the names of the classes above it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ltml_mm.experiments.drawing import CELL, GREY, GROUP_COLOURS, name_labels
from ltml_mm.experiments.results import ClassResult

NO_IMAGE = 0.5  # where a class without a training image stands
DODGE = 0.08  # inches between the marks of classes with like counts
LEADER = 0.09  # from the axes up to the class names, of their height


def spread(places: np.ndarray, distance: float) -> np.ndarray:
    """Moves points along a line apart, as little as can be.

    Args:
        places: Ascending, between 0 and 1, float (N,).
        distance: Least distance of neighbours; less where N points do not
            fit.

    Returns:
        np.ndarray: The places with the least sum of squared moves, between
        0 and 1 and in the same order, float64 (N,).

    Example:
        >>> spread(np.array([0.2, 0.2, 0.9]), 0.1)
        array([0.15, 0.25, 0.9 ])
    """
    size = len(places)
    distance = min(distance, 1 / max(size - 1, 1))
    shift = distance * np.arange(size)
    # Without the shift a least distance is an order: isotonic regression,
    # here by its formula of the largest least mean.
    sums = np.concatenate([[0], np.cumsum(places - shift)])
    first, last = np.indices((size, size))
    means = (sums[last + 1] - sums[first]) / np.maximum(last - first + 1, 1)
    means[last < first] = np.inf
    least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
    fitted = np.maximum.accumulate(least, axis=0).diagonal()
    return np.clip(fitted, 0, 1 - distance * (size - 1)) + shift


def limits_of(counts: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: the most images on the left, as in the tables."""
    most, least = max(counts.max(), 1), max(counts.min(), NO_IMAGE)
    room = max((most / least) ** 0.03, 1.1)
    return most * room, least / room


def shade_groups(
    axes: Axes,
    infos: Sequence[ClassResult],
    x: np.ndarray,
    limits: tuple[float, float],
) -> None:
    """Tints the axes where the groups are, and names them at the bottom.

    Args:
        axes: With a log axis of training images from most to least.
        infos: The classes from the most to the least frequent.
        x: Where they stand, float (K,).
        limits: Ends of the axis.
    """
    order = [c.group for c in infos]
    edges = [k for k in range(1, len(order)) if order[k] != order[k - 1]]
    bounds = [limits[0], *(np.sqrt(x[k - 1] * x[k]) for k in edges), limits[1]]
    for place, start in enumerate([0, *edges]):
        group = order[start]
        left, right = bounds[place : place + 2]
        axes.axvspan(left, right, color=GROUP_COLOURS[group], alpha=0.1, lw=0)
        axes.annotate(
            group,
            (np.sqrt(left * right), 0),
            (0, 3),
            xycoords=('data', 'axes fraction'),
            textcoords='offset points',
            ha='center',
            fontsize=8,
            color=GREY,
        )


def name_classes(
    axes: Axes,
    infos: Sequence[ClassResult],
    x: np.ndarray,
    exact: np.ndarray,
    inches: float,
) -> None:
    """Writes the names above the axes, each with a line to its class.

    Args:
        axes: The same.
        infos: The classes from the most to the least frequent.
        x: Where they stand, float (K,).
        exact: Where they belong along the axis, 0 to 1, float (K,).
        inches: Length of the axis.
    """
    every = np.arange(len(infos))
    names = [c.name if c.count else f'{c.name} (0 images)' for c in infos]
    labels = name_labels(names, every)
    columns = spread(exact, CELL / inches)
    for place, column, text in zip(x, columns, labels['labels'], strict=True):
        axes.axvline(place, color='#dddddd', lw=0.6, zorder=1)
        axes.annotate(
            text,
            (place, 1),
            (column, 1 + LEADER),
            xycoords=('data', 'axes fraction'),
            textcoords='axes fraction',
            rotation=90,
            ha='center',
            va='bottom',
            fontsize=7,
            parse_math=False,
            arrowprops={
                'arrowstyle': '-',
                'color': '#bbbbbb',
                'lw': 0.6,
                'relpos': (0.5, 0),
                'shrinkA': 0,
                'shrinkB': 0,
            },
        )
