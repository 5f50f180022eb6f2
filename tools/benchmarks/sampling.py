"""Measures the order of an epoch and the memory of the samplers.

Example:
    python tools/benchmarks/sampling.py --images 1000000 --classes 1000
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from timing import medians, report, time_in_turns


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=1_000_000)
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np

from ltml_mm.datasets import (
    ClassAwareMultiLabelSampler,
    LabelTable,
    UniformSampler,
)


class Labels:
    """A dataset of labels alone, long-tailed."""

    def __init__(self, images: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        share = 1 / np.arange(1, classes + 1)
        share /= share.sum()
        lengths = rng.integers(1, 4, images)
        offsets = np.zeros(images + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        labels = rng.choice(classes, offsets[-1], p=share).astype(np.int32)
        self.label_table = LabelTable(labels, offsets)
        self.metainfo = {'classes': tuple(map(str, range(classes)))}

    def __len__(self) -> int:
        return self.label_table.num_images


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)

    dataset = Labels(args.images, args.classes)
    positives = len(dataset.label_table.labels)
    tracemalloc.start()
    class_aware = ClassAwareMultiLabelSampler(dataset, 'dataset', seed=0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    uniform = UniformSampler(dataset, 'dataset', seed=0)
    times = time_in_turns(
        {
            'class_aware': lambda: class_aware.sequence(1),
            'uniform': lambda: uniform.sequence(1),
        },
        args.repeats,
    )
    report(
        {
            'images': args.images,
            'classes': args.classes,
            'positives': positives,
            'seconds': times,
            'median_ns_per_index': {
                name: 1e9 * seconds / args.images
                for name, seconds in medians(times).items()
            },
            'held_bytes_per_positive': held / positives,
        },
        args.out,
    )


if __name__ == '__main__':
    main()
