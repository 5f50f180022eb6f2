"""The pictures of a dataset report, as PNG files in memory."""

from __future__ import annotations

from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ltml_mm.experiments.dataset_summary import DatasetFacts
from ltml_mm.experiments.drawing import (
    CELL,
    GREY,
    GROUP_COLOURS,
    MAX_SIDE,
    STREAM_STYLES,
    class_axes,
    legend,
    log_ticks,
    name_labels,
    name_ticks,
    new_figure,
    picture,
    plain_numbers,
    short_number,
)


@picture
def class_counts(facts: DatasetFacts) -> Figure:
    """Draws the images of every class on a log axis, coloured by group."""
    counts, groups = facts.counts, facts.groups
    order = np.argsort(-counts, kind='stable')
    present = order[counts[order] > 0]
    most, least = present[0], present[-1]
    figure, axes = class_axes(
        facts,
        order,
        f'{facts.names[most]} has {counts[most]:,} images, '
        f'{facts.names[least]} {counts[least]:,}: a ratio of '
        f'{counts[most] / counts[least]:.1f}',
    )
    rows = np.arange(len(order))
    colours = [GROUP_COLOURS[groups[k]] for k in order]
    axes.barh(rows, counts[order], color=colours, height=0.75)
    axes.set_xscale('log')
    axes.set_xlim(0.8, counts[most] * 1.8)
    axes.set_xlabel('images with the class (log scale)')
    log_ticks(axes.xaxis)
    for row in axes.get_yticks().astype(int):
        count = counts[order[row]]
        axes.annotate(
            f'{count:,}',
            (max(count, 0.8), row),
            (3, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
            color='#333333',
        )
    bounds = {
        'head': f'head: {facts.head} images or more',
        'medium': f'medium: {facts.tail} to {facts.head - 1}',
        'tail': f'tail: fewer than {facts.tail}',
    }
    handles = [
        Patch(color=GROUP_COLOURS[g], label=f'{text} ({groups.count(g)})')
        for g, text in bounds.items()
    ]
    legend(figure, handles)
    return figure


@picture
def cooccurrence(facts: DatasetFacts) -> Figure:
    """Draws how many images show both of two classes."""
    order = np.argsort(-facts.counts, kind='stable')
    together = facts.cooccurrence()[np.ix_(order, order)]
    size = len(order)
    pairs = together[np.triu_indices(size, 1)]
    none = int((pairs == 0).sum())
    names = [facts.names[k] for k in order]
    side = min(max(size * (0.3 if size <= 25 else CELL), 3.5), MAX_SIDE / 3)
    figure = new_figure(
        side + 2.6,
        side + 2.2,
        f'{none:,} of {len(pairs):,} pairs of classes never share an image',
        facts.about,
    )
    axes = figure.add_subplot()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    norm = LogNorm(1, max(int(together.max()), 2))
    colours = colormaps['viridis_r'].with_extremes(bad='#f4f4f4')
    image = axes.imshow(
        np.ma.masked_equal(together, 0), colours, norm, interpolation='nearest'
    )
    ticks = name_ticks(size, side, CELL)
    axes.set_xticks(ticks, rotation=90, **name_labels(names, ticks))
    axes.set_yticks(ticks, **name_labels(names, ticks))
    axes.tick_params(length=0, labelsize=8 if size <= 25 else 7)
    # In a large matrix the names are far away from most cells.
    axes.tick_params(labeltop=size > 25, labelright=size > 25)
    if size <= 25:
        _write_cells(axes, together, norm)
    bar = figure.colorbar(
        image, ax=axes, shrink=min(1, 4 / side), aspect=25, pad=0.02
    )
    log_ticks(bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.set_label('images with both classes (log scale); diagonal: the class')
    legend(figure, [Patch(fc='#f4f4f4', ec='#cccccc', label='no image')])
    return figure


@picture
def labels_per_image(facts: DatasetFacts) -> Figure:
    """Draws how many images have 0, 1, 2, ... labels."""
    images = np.bincount(facts.labels_per_image)
    total = facts.table.num_images
    one = images[1] if len(images) > 1 else 0
    figure = new_figure(
        min(max(6.0, 0.45 * len(images) + 1.5), MAX_SIDE),
        3.8,
        f'{facts.labels_per_image.mean():.2f} labels an image; '
        f'{100 * one / total:.0f}% of the images have exactly one, '
        f'{100 * images[0] / total:.0f}% none',
        facts.about,
    )
    axes = figure.add_subplot()
    bars = axes.bar(np.arange(len(images)), images, color='#0072B2')
    axes.bar_label(bars, [f'{n:,}' for n in images], fontsize=8, padding=2)
    axes.set_xlabel('labels of an image')
    axes.set_ylabel('images')
    axes.yaxis.set_major_formatter(plain_numbers())
    axes.xaxis.set_major_locator(MaxNLocator(25, integer=True))
    axes.grid(False, axis='x')
    axes.margins(x=0.02, y=0.1)
    return figure


@picture
def class_draws(facts: DatasetFacts) -> Figure:
    """Draws how often every class is seen in an epoch of every stream."""
    order = np.argsort(-facts.counts, kind='stable')
    order = order[facts.counts[order] > 0]
    shares = {
        name: draws.class_shares(facts.table, len(facts.names))[order]
        for name, draws in facts.draws.items()
    }
    length = next(iter(facts.draws.values())).length
    ratios = ', '.join(
        f'{s.max() / s[s > 0].min():.1f} ({name})'
        for name, s in shares.items()
    )
    figure, axes = class_axes(
        facts,
        order,
        f'Draws that show the most over the least seen class: {ratios}',
    )
    rows = np.arange(len(order))
    values = np.stack(list(shares.values())) * length
    axes.hlines(
        rows, values.min(0), values.max(0), color='#c4c4c4', lw=2, zorder=1
    )
    for (name, share), (colour, marker, markersize) in zip(
        shares.items(), cycle(STREAM_STYLES), strict=False
    ):
        axes.plot(
            share * length,
            rows,
            marker,
            color=colour,
            markersize=markersize,
            markeredgecolor='white',
            markeredgewidth=0.6,
            label=_label(facts, name),
        )
    axes.set_xscale('log')
    axes.set_xlabel(
        f'expected draws that show the class, in an epoch of {length:,} '
        'draws (log scale)'
    )
    log_ticks(axes.xaxis)
    percent = axes.secondary_xaxis(
        'top',
        functions=(
            lambda x: np.multiply(x, 100 / length),
            lambda x: np.multiply(x, length / 100),
        ),
    )
    percent.set_zorder(3)
    percent.set_xlabel('% of draws', color=GREY)
    log_ticks(percent.xaxis)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


@picture
def image_draws(facts: DatasetFacts) -> Figure:
    """Draws how unequally the images are drawn in an epoch."""
    total = facts.table.num_images
    sizes = ', '.join(
        f'{d.effective_sample_size:,.0f} ({name})'
        for name, d in facts.draws.items()
    )
    bins = _bins(max(int(d.counted.max()) for d in facts.draws.values()))
    size = max(8.5, 0.35 * len(bins) * len(facts.draws) + 1.5)
    figure = new_figure(
        size,
        7,
        f'Effective sample size of {total:,} images: {sizes}',
        facts.about,
    )
    ranks, bars = figure.subplots(2, 1)
    edges = [first for first, _ in bins]
    width = 0.8 / len(facts.draws)
    for place, (name, draws) in enumerate(facts.draws.items()):
        colour = STREAM_STYLES[place % len(STREAM_STYLES)][0]
        expected = np.sort(draws.expected)[::-1]
        ranks.plot(
            np.arange(1, total + 1),
            np.where(expected > 0, expected, np.nan),
            color=colour,
            lw=2,
            label=_label(facts, name),
        )
        images = np.histogram(draws.counted, [*edges, np.inf])[0]
        x = np.arange(len(bins)) + (place - (len(facts.draws) - 1) / 2) * width
        drawn = bars.bar(x, images, width, color=colour)
        bars.bar_label(
            drawn,
            [short_number(n) if n else '' for n in images],
            fontsize=7,
            padding=1,
        )
    ranks.set_yscale('log')
    ranks.set_xlabel('images, the most drawn first')
    ranks.set_ylabel('expected draws an epoch\n(log scale)')
    log_ticks(ranks.yaxis)
    for axis in (ranks.xaxis, bars.yaxis):
        axis.set_major_formatter(plain_numbers())
    ranks.set_xlim(0, total + 1)
    bars.set_xticks(
        np.arange(len(bins)),
        [f'{a}' if a == b else f'{a}–{b}' for a, b in bins],
    )
    bars.set_xlabel('draws of an image in the first epoch')
    bars.set_ylabel('images')
    bars.grid(False, axis='x')
    bars.margins(x=0.01, y=0.1)
    legend(figure, ranks.get_legend_handles_labels()[0])
    return figure


def _label(facts: DatasetFacts, stream: str) -> str:
    # Without a closed form the first epoch stands in for what is expected.
    exact = facts.draws[stream].exact
    return stream if exact else f'{stream} (counted in the first epoch)'


def _write_cells(axes: Axes, values: np.ndarray, norm: LogNorm) -> None:
    for (row, column), value in np.ndenumerate(values):
        if value:
            axes.text(
                column,
                row,
                str(value),
                ha='center',
                va='center',
                fontsize=6,
                color='white' if norm(value) > 0.45 else 'black',
            )


def _bins(largest: int) -> list[tuple[int, int]]:
    """First and last value of each bin: 0, 1, 2, 3-4, 5-8, 9-16 and so on."""
    bins = [(0, 0), (1, 1)]
    while bins[-1][1] < largest:
        bins.append((bins[-1][1] + 1, bins[-1][1] * 2))
    return bins
