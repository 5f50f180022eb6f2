"""Reports on a training set: the logic of ``tools/analysis``' tool."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltml_mm.apis.cli import add_cfg_options
from ltml_mm.experiments import dataset_figures
from ltml_mm.experiments.dataset_markdown import markdown, summary
from ltml_mm.experiments.dataset_summary import DatasetFacts, read_facts
from ltml_mm.experiments.stream_draws import StreamDraws
from ltml_mm.files import write_bytes, write_json, write_text


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
        help='where report.md, report.json, images.csv and the pictures go; '
        'those of an earlier report are replaced',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report and prints its figures."""
    args = parse_args(argv)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f'--out {out} is not a folder')
    facts = read_facts(args.source, args.cfg_options)
    report = build_report(facts)
    pictures = draw_pictures(facts)
    for name, picture in pictures.items():
        write_bytes(out / name, picture)
    write_text(out / 'images.csv', image_table(facts))
    write_json(out / 'report.json', report)
    write_text(out / 'report.md', markdown(report, list(pictures)))
    print(summary(report))
    print(f'The report is in {out / "report.md"}')


def build_report(facts: DatasetFacts) -> dict[str, Any]:
    """Gathers the figures of a dataset, ready for JSON.

    Args:
        facts: What :func:`read_facts` returned.

    Returns:
        dict: The totals of the dataset; ``samplers``, the figures of every
        stream; ``classes``, those of every class, under ``draws`` by stream:
        ``share`` (of the draws that show the class), ``expected`` and
        ``counted`` (draws of an epoch); ``labels_per_image``, the images
        with 0, 1, ... labels; ``cooccurrence``, the images that show both
        classes, (K, K). Shares lie between 0 and 1.
    """
    counts = facts.counts
    num_labels = facts.labels_per_image
    return {
        'source': facts.source,
        'num_images': facts.table.num_images,
        'num_classes': len(facts.names),
        'labels_of_an_image': float(num_labels.mean()),
        'images_without_label': int((num_labels == 0).sum()),
        'imbalance': _ratio(counts),
        'head_from': facts.head,
        'tail_below': facts.tail,
        'groups': {
            name: facts.groups.count(name)
            for name in ('head', 'medium', 'tail')
        },
        'groups_from_other_counts': counts.tolist()
        != list(facts.statistics.counts),
        'samplers': {
            name: _sampler_figures(draws, facts)
            for name, draws in facts.draws.items()
        },
        'classes': _class_figures(facts),
        'labels_per_image': np.bincount(num_labels).tolist(),
        'cooccurrence': facts.cooccurrence().tolist(),
    }


def draw_pictures(facts: DatasetFacts) -> dict[str, bytes]:
    """Draws the pictures of a report.

    Args:
        facts: What :func:`read_facts` returned.

    Returns:
        dict: PNG files by name.
    """
    return {
        'class_counts.png': dataset_figures.class_counts(facts),
        'cooccurrence.png': dataset_figures.cooccurrence(facts),
        'labels_per_image.png': dataset_figures.labels_per_image(facts),
        'class_draws.png': dataset_figures.class_draws(facts),
        'image_draws.png': dataset_figures.image_draws(facts),
    }


def image_table(facts: DatasetFacts) -> str:
    """Lists how often every image is drawn in an epoch, as CSV.

    Args:
        facts: What :func:`read_facts` returned.

    Returns:
        str: One row per image: index, path, labels, and for every stream the
        expected draws of an epoch and those of the first.
    """
    columns: list[list] = []
    header = ['index', 'path', 'labels']
    for name, draws in facts.draws.items():
        header += [f'{name} expected', f'{name} counted']
        columns += [
            [f'{value:.6g}' for value in draws.expected],
            draws.counted.tolist(),
        ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    offsets = facts.table.offsets
    for i in range(facts.table.num_images):
        labels = facts.table.labels[offsets[i] : offsets[i + 1]]
        names = ';'.join(facts.names[k] for k in labels)
        path = facts.dataset.get_data_info(i).get('img_path', '')
        writer.writerow([i, path, names, *(column[i] for column in columns)])
    return file.getvalue()


def _sampler_figures(draws: StreamDraws, facts: DatasetFacts) -> dict:
    shares = draws.class_shares(facts.table, len(facts.names))
    present = np.flatnonzero(facts.counts)
    most = int(shares.argmax())
    least = int(present[shares[present].argmin()])
    return {
        'type': draws.sampler,
        'seed': None if draws.seed is None else int(draws.seed),
        'draws': draws.length,
        'closed_form': draws.exact,
        'effective_sample_size': draws.effective_sample_size,
        'exposure_ratio': _ratio(shares[present]),
        'most_seen': [facts.names[most], float(shares[most])],
        'least_seen': [facts.names[least], float(shares[least])],
        'labels_of_a_draw': float(shares.sum()),
        'image_draws': {
            'expected': [float(v) for v in _range(draws.expected)],
            'counted': [int(v) for v in _range(draws.counted)],
        },
        'distinct_images': int(np.count_nonzero(draws.counted)),
    }


def _class_figures(facts: DatasetFacts) -> list[dict]:
    counts, groups = facts.counts, facts.groups
    size = len(facts.names)
    classes: list[dict] = [
        {
            'name': name,
            'group': groups[k],
            'images': int(counts[k]),
            'train_images': facts.statistics.counts[k],
            'draws': {},
        }
        for k, name in enumerate(facts.names)
    ]
    for stream, draws in facts.draws.items():
        shares = draws.class_shares(facts.table, size)
        counted = draws.class_counted(facts.table, size)
        for k, entry in enumerate(classes):
            entry['draws'][stream] = {
                'share': float(shares[k]),
                'expected': float(shares[k] * draws.length),
                'counted': int(counted[k]),
            }
    return classes


def _ratio(values: np.ndarray) -> float | None:
    # Over what is there: a class without an image has no exposure.
    values = values[values > 0]
    return float(values.max() / values.min()) if values.size else None


def _range(values: np.ndarray) -> tuple[Any, Any]:
    return values.min(), values.max()
