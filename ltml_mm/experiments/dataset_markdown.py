"""Renders a dataset report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltml_mm.evaluation.report import table

EXPLANATION = (
    '"Exposure" is the ratio of the draws that show the most and the least '
    'seen class; an image shows all its classes, whichever it was drawn for. '
    'The effective sample size is 1 / sum of p_i^2 over the probabilities '
    'p_i that a draw is image i. "Draws an epoch" are expected values, '
    '"first epoch" is what that one draws; images.csv lists every image.'
)


def markdown(report: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """Renders a report.

    Args:
        report: What :func:`build_report` returned.
        pictures: Names of picture files beside the text.

    Returns:
        str: Markdown.
    """
    classes = sorted(report['classes'], key=lambda c: -c['images'])
    header = ['class', 'group', 'images', '% of images']
    rows = [
        [
            c['name'],
            c['group'],
            c['images'],
            _percent(c['images'] / report['num_images']),
        ]
        for c in classes
    ]
    for name in report['samplers']:
        header += [f'{name}: % of draws', 'draws an epoch', 'first epoch']
        for row, c in zip(rows, classes, strict=True):
            draws = c['draws'][name]
            row += [
                _percent(draws['share']),
                f'{draws["expected"]:.1f}',
                draws['counted'],
            ]
    return (
        '\n\n'.join(
            [
                f'# {report["source"]}',
                summary(report),
                EXPLANATION,
                '## Classes',
                table(header, rows),
                *(f'![{Path(name).stem}]({name})' for name in pictures),
            ]
        )
        + '\n'
    )


def summary(report: Mapping[str, Any]) -> str:
    """Renders the totals of a report and the table of its streams.

    Args:
        report: What ``build_report`` returned.

    Returns:
        str: Markdown, which reads well in a terminal too.
    """
    groups = ', '.join(f'{n} {name}' for name, n in report['groups'].items())
    text = (
        f'{report["num_images"]} images, {report["num_classes"]} classes '
        f'({groups}; head from {report["head_from"]} training images, tail '
        f'below {report["tail_below"]}), {report["labels_of_an_image"]:.2f} '
        f'labels an image, {report["images_without_label"]} images without '
        f'a label, largest over smallest class {_number(report["imbalance"])}'
    )
    if report['groups_from_other_counts']:
        text += (
            '. The groups follow the training counts that the annotations '
            'declare, which are not those of these images'
        )
    rows = [
        [
            name,
            f['type'] + ('' if f['closed_form'] else ' (counted)'),
            f['draws'],
            f'{_percent(f["most_seen"][1])} {f["most_seen"][0]}',
            f'{_percent(f["least_seen"][1])} {f["least_seen"][0]}',
            _number(f['exposure_ratio']),
            f'{f["effective_sample_size"]:.0f} of {report["num_images"]}',
            f['distinct_images'],
            f['image_draws']['counted'][1],
        ]
        for name, f in report['samplers'].items()
    ]
    header = [
        'stream',
        'sampler',
        'draws an epoch',
        'most seen, % of draws',
        'least seen',
        'exposure',
        'effective sample size',
        'images in the first epoch',
        'most draws of one image',
    ]
    return f'{text}.\n\n{table(header, rows)}'


def _percent(share: float) -> str:
    percent = 100 * share
    return f'{percent:.1f}' if percent >= 0.1 else f'{percent:.2g}'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1f}'
