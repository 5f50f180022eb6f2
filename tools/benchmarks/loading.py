"""Measures the images a second that one worker loads, epoch by epoch.

The wrapper that makes draws reproducible is compared, in turns, with the
plain dataset under the same pipeline. Without ``--config`` it writes
pictures of the size of VOC's and loads them by ltml_voc's pipeline.

Example:
    python tools/benchmarks/loading.py --pictures 256 --epochs 5
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from ltml_mm.datasets import TwoStreamDataset, TwoStreamSampler
from ltml_mm.files import write_json
from timing import medians, report

CONFIG = Path(__file__).parents[2] / 'configs' / 'ltml_voc.py'


def write_pictures(folder: Path, count: int) -> None:
    """Writes smooth random JPEG files of 500 x 375 pixels, and labels."""
    rng = np.random.default_rng(0)
    data = []
    for i in range(count):
        small = rng.integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f'{i}.jpg'), cv2.resize(small, (500, 375)))
        data.append({'img_path': f'{i}.jpg', 'gt_label': [i % 2]})
    metainfo = {'classes': ['a', 'b']}
    write_json(
        folder / 'train.json', {'metainfo': metainfo, 'data_list': data}
    )


def seconds(dataset: Any, sampler: Any, epoch: int) -> float:
    """Returns the time of one epoch through one worker."""
    sampler.set_epoch(epoch)
    loader = DataLoader(
        dataset, 32, sampler=sampler, num_workers=1, collate_fn=len
    )
    iterator = iter(loader)
    next(iterator)  # the worker has started
    start = time.perf_counter()
    for _ in iterator:
        pass
    return time.perf_counter() - start


class Indices:
    """The plain indices of one stream of a sampler, one after another."""

    def __init__(self, sampler: TwoStreamSampler) -> None:
        self.sampler = sampler
        self.set_epoch = sampler.set_epoch

    def __iter__(self) -> Any:
        return (draw['uniform'] for draw in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pictures', type=int, default=256)
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args()

    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name), args.pictures)
        plain = DATASETS.build(
            dict(
                type='LongTailMultiLabelDataset',
                data_root=name,
                ann_file='train.json',
                pipeline=cfg.train_dataloader.dataset.dataset.pipeline,
            )
        )
        reproducible = TwoStreamDataset(plain)
        sampler = TwoStreamSampler(
            reproducible,
            streams=dict(uniform=dict(type='UniformSampler')),
            epoch_length=args.pictures,
            seed=0,
        )
        cases = {
            'plain': (plain, Indices(sampler)),
            'reproducible': (reproducible, sampler),
        }
        times: dict[str, list[float]] = {case: [] for case in cases}
        for epoch in range(args.epochs):
            for case, (dataset, order) in cases.items():
                times[case].append(seconds(dataset, order, epoch))
    images = args.pictures - 32
    median = medians(times)
    report(
        {
            'images_a_second': {
                case: [images / t for t in values]
                for case, values in times.items()
            },
            'time_ratio': median['reproducible'] / median['plain'],
        },
        args.out,
    )


if __name__ == '__main__':
    main()
