"""Compares the metric's speed with that of MMPretrain's AveragePrecision.

Both compute the AP of every class from the same scores, in turns within one
run; the figure is the ratio of their median times.

Example:
    python tools/benchmarks/metric.py --out metric.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from timing import medians, report, time_in_turns


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=100_000)
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument(
        '--levels',
        type=int,
        default=1000,
        help='number of distinct scores; fewer than images means ties',
    )
    parser.add_argument(
        '--positives', type=float, default=3.0, help='labels per image'
    )
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np
import torch
from mmpretrain.evaluation import AveragePrecision

from ltml_mm.evaluation import average_precision


def make_data(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Makes scores with ties, float32, and targets, int8, both (N, K)."""
    rng = np.random.default_rng(args.seed)
    shape = (args.images, args.classes)
    targets = rng.random(shape, np.float32) < args.positives / args.classes
    scores = rng.random(shape, np.float32)
    scores += 0.3 * targets
    np.round(scores * args.levels, out=scores)
    return scores / args.levels, targets.astype(np.int8)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    scores, targets = make_data(args)
    # MMPretrain's own input: tensors, which share the arrays' memory.
    tensors = torch.from_numpy(scores), torch.from_numpy(targets)
    times = time_in_turns(
        {
            'ltml_mm': lambda: average_precision(scores, targets),
            'mmpretrain': lambda: AveragePrecision.calculate(*tensors),
        },
        args.repeats,
    )
    median = medians(times)
    report(
        {
            'options': {k: v for k, v in vars(args).items() if k != 'out'},
            'seconds': times,
            'median_seconds': median,
            'times_as_fast': median['mmpretrain'] / median['ltml_mm'],
        },
        args.out,
    )


if __name__ == '__main__':
    main()
