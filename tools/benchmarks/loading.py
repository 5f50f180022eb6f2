"""Measures the images a second that one core loads, epoch by epoch.

Writes pictures of VOC's size and loads them in turns through

- ``stock``: what MMPretrain has for it: LoadImageFromFile,
  RandomResizedCrop, RandomFlip, ColorJitter, PackInputs, by plain indices;
- ``stock_plain_colours``: the same without ColorJitter;
- ``decoding``: ltml_voc's pipeline without a cache of decoded images;
- ``kept``: the same with the cache, after a first epoch that fills it;
- ``kept_for_device``: and distortion and mirroring left to the device;
- ``plain``: as ``kept``, but without the wrapper that makes draws
  reproducible.

The figures are the processor time of one data worker, batches included, so
another program on the machine changes them little.

Example:
    python tools/benchmarks/loading.py --pictures 256 --epochs 5
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from timing import medians, report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pictures', type=int, default=256)
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import cv2
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from ltml_mm.apis.config import load_config
from ltml_mm.datasets import TwoStreamDataset, TwoStreamSampler
from ltml_mm.models.fork.branches import BRANCHES
from pictures import write_pictures

CONFIG = Path(__file__).parents[2] / 'configs' / 'ltml_voc.py'
PAIRS = 16  # a batch
STOCK = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='ColorJitter',
        brightness=0.125,
        contrast=0.5,
        saturation=0.5,
        hue=0.05,
    ),
    dict(type='PackInputs'),
]


def build(folder: str, pipeline: Any, image_cache: Any) -> Any:
    """Builds the set of the pictures."""
    return DATASETS.build(
        dict(
            type='LongTailMultiLabelDataset',
            data_root=folder,
            ann_file='train.json',
            image_cache=image_cache,
            pipeline=pipeline,
        )
    )


def protocol(**options: Any) -> Any:
    """Returns ltml_voc's training pipeline."""
    cfg: Config = load_config(CONFIG, options)
    return cfg.train_dataloader.dataset.dataset.pipeline


def stamp(samples: list[dict]) -> float:
    """Makes a batch in a data worker; returns the worker's time so far."""
    default_collate(samples)
    return time.process_time()


def make_cases(folder: str) -> dict[str, Callable[[int], float]]:
    """Returns functions from an epoch to the seconds of an image."""
    kept = build(folder, protocol(), 'auto')
    sampler = TwoStreamSampler(
        TwoStreamDataset(kept),
        streams=dict(
            uniform=dict(type='UniformSampler'),
            rebalanced=dict(type='ClassAwareMultiLabelSampler'),
        ),
        # The first epoch reads every picture and compares its checksum.
        epoch_length=len(kept),
        seed=0,
    )
    uncoloured = [step for step in STOCK if step['type'] != 'ColorJitter']
    sets = {
        'stock': build(folder, STOCK, False),
        'stock_plain_colours': build(folder, uncoloured, False),
        'decoding': TwoStreamDataset(build(folder, protocol(), False)),
        'kept': TwoStreamDataset(kept),
        'kept_for_device': TwoStreamDataset(
            build(folder, protocol(augment_on='device'), 'auto')
        ),
        'plain': kept,
    }

    def case(name: str) -> Callable[[int], float]:
        single = name in ('stock', 'stock_plain_colours', 'plain')
        loader = DataLoader(
            sets[name],
            2 * PAIRS if single else PAIRS,
            sampler=Singles(sampler) if single else sampler,
            num_workers=1,
            persistent_workers=True,
            collate_fn=stamp,
        )

        def run(epoch: int) -> float:
            sampler.set_epoch(epoch)
            stamps = list(loader)
            # The first batch holds the start of the worker.
            images = 2 * PAIRS * (len(stamps) - 1)
            return (stamps[-1] - stamps[0]) / images

        return run

    return {name: case(name) for name in sets}


class Singles:
    """The images of a sampler's pairs, one after another."""

    def __init__(self, sampler: TwoStreamSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        return (draw[key] for draw in self.sampler for key in BRANCHES)

    def __len__(self) -> int:
        return 2 * len(self.sampler)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    init_default_scope('mmpretrain')
    warnings.simplefilter('ignore')  # of ColorJitter, at every image
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        os.environ['LTML_IMAGE_CACHE'] = str(Path(name) / 'kept')
        write_pictures(Path(name), args.pictures)
        cases = make_cases(name)
        first = {case: run(0) for case, run in cases.items()}
        times: dict[str, list[float]] = {case: [] for case in cases}
        for epoch in range(1, args.epochs + 1):
            for case, run in cases.items():
                times[case].append(run(epoch))
    median = medians(times)
    report(
        {
            'images_a_second_and_core': {
                case: 1 / t for case, t in median.items()
            },
            'milliseconds_an_image': {
                case: 1000 * t for case, t in median.items()
            },
            'first_epoch_milliseconds': {
                case: 1000 * t for case, t in first.items()
            },
            'times_stock': {
                case: median['stock'] / t for case, t in median.items()
            },
            'time_ratio_of_the_wrapper': median['kept'] / median['plain'],
        },
        args.out,
    )


if __name__ == '__main__':
    main()
