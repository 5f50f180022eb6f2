"""Reports on a training set: the logic of ``tools/analysis``' tool."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltml_mm.apis.cli import add_cfg_options
from ltml_mm.class_statistics import GROUPS
from ltml_mm.datasets.splits import cooccurrence
from ltml_mm.evaluation.report import table
from ltml_mm.experiments.dataset_figures import draw_classes
from ltml_mm.experiments.dataset_summary import (
    DatasetSummary,
    StreamDraws,
    read_summary,
)
from ltml_mm.files import write_bytes, write_json, write_text

PICTURE = 'classes.png'
EXPLANATION = (
    'Classes are seen in % of the draws: an image shows all its classes, '
    'whichever it was drawn for. "Exposure" is the ratio of the most and the '
    'least seen class. The effective sample size is 1 / sum of p_i^2 over the '
    'probabilities p_i that a draw is image i. "Draws an epoch" are expected '
    'values, "first epoch" is what that one draws; images.csv lists every '
    'image, report.json how often any two classes share one.'
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of ``tools/analysis/dataset_report.py``."""
    parser = argparse.ArgumentParser(
        description='Report on the training set of a config, or on an '
        'annotation file: class counts, co-occurrence, and how often its '
        'samplers draw every class and image. No image is read.'
    )
    parser.add_argument(
        'source',
        metavar='CONFIG|JSON',
        help="config, or annotation file in MMPretrain's multi-label format",
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='where report.md, report.json, images.csv and the picture go; '
        'those of an earlier report are replaced',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report and prints its totals."""
    args = parse_args(argv)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f'--out {out} is not a folder')
    summary = read_summary(args.source, args.cfg_options)
    report = build_report(summary)
    write_bytes(out / PICTURE, draw_classes(report))
    write_text(out / 'images.csv', image_table(summary))
    write_json(out / 'report.json', report)
    write_text(out / 'report.md', markdown(report))
    print(totals(report))
    print(f'The report is in {out / "report.md"}')


def build_report(summary: DatasetSummary) -> dict[str, Any]:
    """Gathers the figures of a dataset, ready for JSON.

    Args:
        summary: The labels of the dataset and the draws of its samplers.

    Returns:
        dict: The totals of the dataset; ``groups``, their number of classes;
        ``streams``, the figures of every stream; ``classes``, those of every
        class, under ``draws`` by stream: ``share`` (of the draws that show
        the class), ``expected`` and ``counted`` (draws of an epoch);
        ``labels_per_image``, the images with 0, 1, ... labels;
        ``cooccurrence``, the images that show both classes, (K, K). Shares
        lie between 0 and 1.
    """
    counts = summary.table.counts(len(summary.names))
    groups = summary.statistics.group_of(summary.head, summary.tail)
    num_labels = np.diff(summary.table.offsets)
    train_counts = summary.statistics.counts
    classes: list[dict] = [
        {
            'name': name,
            'group': groups[k],
            'images': int(counts[k]),
            'train_images': train_counts[k],
            'draws': {},
        }
        for k, name in enumerate(summary.names)
    ]
    streams = {}
    for stream, draws in summary.draws.items():
        shares = summary.sum_by_class(draws.probabilities)
        counted = summary.sum_by_class(draws.counted)
        for k, entry in enumerate(classes):
            entry['draws'][stream] = {
                'share': float(shares[k]),
                'expected': float(shares[k] * draws.length),
                'counted': round(counted[k]),
            }
        streams[stream] = _stream_entry(draws, shares, counts, summary.names)
    return {
        'source': summary.source,
        'images': summary.table.num_images,
        'head_from': summary.head,
        'tail_below': summary.tail,
        'labels_of_an_image': float(num_labels.mean()),
        'images_without_label': int((num_labels == 0).sum()),
        'imbalance': _ratio(counts),
        'groups': {group: groups.count(group) for group in GROUPS},
        'groups_from_other_counts': counts.tolist() != list(train_counts),
        'streams': streams,
        'classes': classes,
        'labels_per_image': np.bincount(num_labels).tolist(),
        'cooccurrence': cooccurrence(
            summary.table.matrix(len(summary.names))
        ).tolist(),
    }


def image_table(summary: DatasetSummary) -> str:
    """Lists how often every image is drawn in an epoch, as CSV.

    Args:
        summary: The labels of the dataset and the draws of its samplers.

    Returns:
        str: One row per image: index, path, labels, and for every stream the
        expected draws of an epoch and those of the first.
    """
    header = ['index', 'path', 'labels']
    columns: list[list] = []
    for name, draws in summary.draws.items():
        header += [f'{name} expected', f'{name} counted']
        columns += [
            [f'{p * draws.length:.6g}' for p in draws.probabilities],
            draws.counted.tolist(),
        ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    rows = np.split(summary.table.labels, summary.table.offsets[1:-1])
    for i, (labels, *draws) in enumerate(zip(rows, *columns, strict=True)):
        names = ';'.join(summary.names[k] for k in labels)
        path = summary.dataset.get_data_info(i).get('img_path', '')
        writer.writerow([i, path, names, *draws])
    return file.getvalue()


def markdown(report: Mapping[str, Any]) -> str:
    """Renders a report.

    Args:
        report: What :func:`build_report` returned.

    Returns:
        str: Markdown.
    """
    total, names = report['images'], [c['name'] for c in report['classes']]
    together = np.array(report['cooccurrence'])
    np.fill_diagonal(together, 0)
    header = ['class', 'group', 'images', '% of images', 'most often with']
    for stream in report['streams']:
        header += [f'{stream}: % of draws', 'draws an epoch', 'first epoch']
    rows = []
    for entry, others in zip(report['classes'], together, strict=True):
        images, most = entry['images'], int(others.argmax())
        row = [entry['name'], entry['group'], images, _percent(images / total)]
        row += [f'{names[most]} ({others[most]})' if others[most] else '-']
        for draws in entry['draws'].values():
            expected = f'{draws["expected"]:.1f}'
            row += [_percent(draws['share']), expected, draws['counted']]
        rows.append(row)
    rows.sort(key=lambda row: -row[2])
    labels = [
        [number, images, _percent(images / total)]
        for number, images in enumerate(report['labels_per_image'])
    ]
    parts = [
        f'# {report["source"]}',
        totals(report),
        EXPLANATION,
        '## Classes',
        table(header, rows),
        '## Labels per image',
        table(['labels', 'images', '% of images'], labels),
        f'![Images and draws of the classes]({PICTURE})',
    ]
    return '\n\n'.join(parts) + '\n'


def totals(report: Mapping[str, Any]) -> str:
    """Renders the totals of a report and the table of its streams.

    Args:
        report: What :func:`build_report` returned.

    Returns:
        str: Markdown, which reads well in a terminal too.
    """
    groups = ', '.join(f'{n} {name}' for name, n in report['groups'].items())
    text = (
        f'{report["images"]} images, {len(report["classes"])} classes '
        f'({groups}; head from {report["head_from"]} training images, tail '
        f'below {report["tail_below"]}), {report["labels_of_an_image"]:.2f} '
        f'labels an image, {report["images_without_label"]} images without a '
        f'label, largest over smallest class {report["imbalance"]:.1f}.'
    )
    if report['groups_from_other_counts']:
        text += (
            ' The groups follow the training counts that the annotations '
            'declare, which are not those of these images.'
        )
    streams = report['streams']
    header = [key.replace('_', ' ') for key in next(iter(streams.values()))]
    rows = [
        [name, *map(_text, entry.values())] for name, entry in streams.items()
    ]
    return f'{text}\n\n{table(["stream", *header], rows)}'


def _stream_entry(
    draws: StreamDraws,
    shares: np.ndarray,
    counts: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """Gathers a stream's line of the table; all arrays are (K,)."""
    most = int(shares.argmax())
    # A class without an image is none that could be seen.
    least = int(np.where(counts > 0, shares, np.inf).argmin())
    return {
        'sampler': draws.sampler,
        'closed_form': draws.exact,
        'draws_an_epoch': draws.length,
        'most_seen': [float(shares[most]), names[most]],
        'least_seen': [float(shares[least]), names[least]],
        'exposure': _ratio(shares),
        'effective_sample_size': float(
            1 / np.square(draws.probabilities).sum()
        ),
        'labels_of_a_draw': float(shares.sum()),
        'images_in_the_first_epoch': int(np.count_nonzero(draws.counted)),
        'most_draws_of_one_image': int(draws.counted.max()),
    }


def _ratio(values: np.ndarray) -> float:
    # A class without an image has no exposure.
    values = values[values > 0]
    return float(values.max() / values.min())


def _percent(share: float) -> str:
    percent = 100 * share
    return f'{percent:.1f}' if percent >= 0.1 else f'{percent:.2g}'


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f'{_percent(value[0])} {value[1]}'
    return f'{value:.1f}' if isinstance(value, float) else str(value)
