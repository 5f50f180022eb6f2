"""Reports on a training set: ``tools/analysis/dataset_report.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope

from ltml_cli import parse
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import scope_of
from ltml_mm.class_statistics import COUNTS_KEY, GROUPS, ClassStatistics
from ltml_mm.datasets import samplers
from ltml_mm.datasets.annotations import read_labels, training_metainfo
from ltml_mm.datasets.splits import cooccurrence
from ltml_mm.evaluation.grouped_average_precision import group_bounds
from ltml_mm.evaluation.report import table
from ltml_mm.experiments import drawing
from ltml_mm.files import write_bytes, write_json, write_text

#: Marker of a stream and its size: where markers meet, each stays in sight.
STREAM_STYLES = (('o', 7.5), ('D', 5.0), ('s', 4.0), ('v', 3.0))
ROW = 0.19  # inches that a class name in 8 points needs with some air
MAX_HEIGHT = 60.0  # inches; beyond, class names are thinned out
PICTURE = 'classes.png'
EXPLANATION = (
    'Groups follow the training counts that the annotations declare, else '
    'the images here. A draw shows all classes of its image. Draws are '
    "expected values; of a sampler other than the package's two, those of "
    'its first epoch. "Exposure" is the ratio of the most and the least seen '
    'class; the effective sample size is 1 / sum of p_i^2 over the '
    'probabilities p_i that a draw is image i.'
)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report."""
    args = parse('dataset-report', argv)
    out = Path(args.out)
    report = build_report(args.source, args.cfg_options)
    write_bytes(out / PICTURE, drawing.png(draw_classes, report))
    write_json(out / 'report.json', report)
    write_text(out / 'report.md', markdown(report))
    print(f'The report is in {out / "report.md"}')
    names = [entry['name'] for entry in report['classes']]
    if told := drawing.unknown_letters(names):
        print(f'{out / PICTURE}: {told}', file=sys.stderr)


def build_report(
    path: str | Path, cfg_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Gathers the figures of a training set, ready for JSON.

    Args:
        path: A config, or a JSON file in MMPretrain's multi-label format,
            which is drawn from as the configs of the package do.
        cfg_options: Overrides of the config.

    Returns:
        dict: The totals of the dataset; ``groups``, their number of classes;
        ``classes`` and ``streams``, the figures of each; ``draws``, by
        stream, the draws of an epoch that show each class, (K,);
        ``cooccurrence``, the images that show both classes, (K, K).

    Raises:
        FileNotFoundError: The file, or one that it names, does not exist.
        ValueError: The config or the annotation file is broken, or no image
            has a label.
    """
    path = Path(path)
    cfg = _read_config(path, cfg_options)
    loader = cfg.train_dataloader
    init_default_scope(scope_of(cfg))
    dataset = DATASETS.build(loader.dataset)
    dataset.full_init()
    images = read_labels(dataset)
    known = len(images.counts(0))
    names = list(map(str, dataset.metainfo.get('classes') or range(known)))
    if not 0 < known <= len(names):
        raise ValueError(
            f'{path}: its {images.num_images} images have labels of {known} '
            f'classes, and it names {len(names)}'
        )
    statistics = images.statistics(len(names))
    labels = images.matrix(len(names))
    counts, sizes = labels.sum(0), labels.sum(1)
    metainfo = training_metainfo(dataset, images)
    if metainfo.get(COUNTS_KEY) is not None:
        statistics = ClassStatistics.from_metainfo(metainfo)
    groups = statistics.group_of(**group_bounds(cfg))
    seed = cfg.get('randomness', {}).get('seed') or 0
    sampler: Any = DATA_SAMPLERS.build(
        loader.sampler, default_args={'dataset': dataset, 'seed': seed}
    )
    # A sampler of one stream goes by the name of its class.
    alone = {type(sampler).__name__: sampler}
    streams, draws = {}, {}
    for name, own in getattr(sampler, 'streams', alone).items():
        chances = draw_probabilities(own, labels)
        shares = chances @ labels
        draws[name] = (shares * len(sampler)).tolist()
        streams[name] = {
            'sampler': type(own).__name__,
            'draws_an_epoch': len(sampler),
            'exposure': _ratio(shares),
            'effective_sample_size': float(1 / np.square(chances).sum()),
            'labels_of_a_draw': float(shares.sum()),
        }
    return {
        # 'data/voc_lt/train.json' says more in a title than 'train.json'.
        'source': '/'.join(path.resolve().parts[-2:]),
        'images': images.num_images,
        'labels_of_an_image': float(sizes.mean()),
        'images_without_label': int((sizes == 0).sum()),
        'imbalance': _ratio(counts),
        'groups': {group: groups.count(group) for group in GROUPS},
        'classes': [
            {'name': name, 'group': group, 'images': count}
            for name, group, count in zip(
                names, groups, counts.tolist(), strict=True
            )
        ],
        'streams': streams,
        'draws': draws,
        'cooccurrence': cooccurrence(labels).tolist(),
    }


def draw_probabilities(sampler: Any, labels: np.ndarray) -> np.ndarray:
    """Returns the probability of every image in a draw.

    A class-aware draw takes one of the K' classes that have an image, then
    one of its n_k images: p_i = 1 / K' * sum over the labels k of i of
    1 / n_k. For a sampler other than the package's two, the shares of the
    first epoch's draws stand in.

    Args:
        sampler: A sampler of one stream.
        labels: Of the N images that it draws from, bool (N, K).

    Returns:
        np.ndarray: float64 of shape (N,), summing to 1.

    Raises:
        ValueError: The sampler draws something else than images' indices.
    """
    size = len(labels)
    if isinstance(sampler, samplers.UniformSampler):
        return np.full(size, 1 / size)
    if isinstance(sampler, samplers.ClassAwareMultiLabelSampler):
        counts = labels.sum(0)
        return labels @ (1 / np.maximum(counts, 1)) / np.count_nonzero(counts)
    # Some samplers never end: their length is that of a pass.
    order = np.asarray(list(islice(iter(sampler), len(sampler))))
    if order.dtype.kind != 'i' or order.min() < 0 or order.max() >= size:
        raise ValueError(
            f'{type(sampler).__name__} must draw indices of the {size} '
            f'images, its first draws are {order[:3].tolist()}'
        )
    return np.bincount(order, minlength=size) / len(order)


def markdown(report: Mapping[str, Any]) -> str:
    """Renders what :func:`build_report` returned as Markdown."""
    total, streams = report['images'], report['streams']
    names = [entry['name'] for entry in report['classes']]
    together = np.array(report['cooccurrence'])
    np.fill_diagonal(together, 0)
    header = ['class', 'group', 'images', '% of images', 'most often with']
    for stream in streams:
        header += [f'{stream}: % of draws', 'draws an epoch']
    rows = []
    for k, entry in enumerate(report['classes']):
        most = int(together[k].argmax())
        row = [*entry.values(), f'{100 * entry["images"] / total:.2f}']
        shared = together[k, most]
        row += [f'{names[most]} ({shared})' if shared else '-']
        for stream, figures in streams.items():
            draws = report['draws'][stream][k]
            share = draws / figures['draws_an_epoch']
            row += [f'{100 * share:.2f}', f'{draws:.1f}']
        rows.append(row)
    rows.sort(key=lambda row: -row[2])
    groups = ', '.join(f'{n} {name}' for name, n in report['groups'].items())
    fields = [key.replace('_', ' ') for key in next(iter(streams.values()))]
    parts = [
        f'# {report["source"]}',
        f'{total} images, {len(names)} classes ({groups}), '
        f'{report["labels_of_an_image"]:.2f} labels an image, '
        f'{report["images_without_label"]} images without a label, '
        f'largest over smallest class {report["imbalance"]:.1f}.',
        table(
            ['stream', *fields],
            [[n, *map(_rounded, f.values())] for n, f in streams.items()],
        ),
        EXPLANATION,
        '## Classes',
        table(header, rows),
        f'![Images and draws of the classes]({PICTURE})',
    ]
    return '\n\n'.join(parts) + '\n'


def _read_config(path: Path, cfg_options: Mapping[str, Any] | None) -> Config:
    if path.suffix != '.json':
        cfg = load_config(path, cfg_options)
        if not {'dataset', 'sampler'} <= {
            *(cfg.get('train_dataloader') or {})
        }:
            raise ValueError(
                f'{path}: the config has no train_dataloader with a dataset '
                'and a sampler'
            )
        return cfg
    if cfg_options:
        raise ValueError(
            f'{path}: --cfg-options overrides a config, not an annotation file'
        )
    # As a test set: a file's counts may be those of another training set,
    # which make the groups. No image is opened, wherever it is.
    dataset = {
        'type': 'LongTailMultiLabelDataset',
        'ann_file': str(path),
        'test_mode': True,
        'allow_outside': True,
    }
    sampler = {
        'type': 'TwoStreamSampler',
        'streams': {
            'uniform': {'type': 'UniformSampler'},
            'class-aware': {'type': 'ClassAwareMultiLabelSampler'},
        },
        'epoch_length': 'class-aware',
    }
    return Config(
        {'train_dataloader': {'dataset': dataset, 'sampler': sampler}}
    )


def _ratio(values: np.ndarray) -> float:
    # A class without an image has no exposure.
    values = values[values > 0]
    return float(values.max() / values.min())


def _rounded(value: Any) -> Any:
    return f'{value:.1f}' if isinstance(value, float) else value


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
