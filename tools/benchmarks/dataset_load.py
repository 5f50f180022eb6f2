"""Measures how long VOC-LT and COCO-LT of the published size take to load.

Writes annotations with the published numbers of images, classes and labels;
there are no images, so loading one would fail.

Example:
    python tools/benchmarks/dataset_load.py --out out/dataset_load.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import medians, report, time_in_turns


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--out', type=Path, help='JSON file of the result')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np

from ltml_mm.datasets import COCOLTDataset, VOCLTDataset

# Images and mean labels per image of the published training and test sets.
SETS: dict[str, tuple[type, dict[str, tuple[int, float]]]] = {
    'voc_lt': (VOCLTDataset, {'train': (1142, 1.9), 'test': (4952, 1.6)}),
    'coco_lt': (COCOLTDataset, {'train': (1909, 4.0), 'test': (5000, 2.9)}),
}
LIMIT_SECONDS = 1.0


def write_annotations(path: Path, cls: Any, images: int, mean: float) -> None:
    """Writes a JSON file with random labels."""
    classes = cls.METAINFO['classes']
    rng = np.random.default_rng(0)
    data = [
        {
            'img_path': f'images/{i:012d}.jpg',
            'gt_label': sorted(
                rng.choice(
                    len(classes), min(rng.poisson(mean), 18), replace=False
                ).tolist()
            ),
        }
        for i in range(images)
    ]
    value = {'metainfo': {'classes': classes}, 'data_list': data}
    path.write_text(json.dumps(value))


def measure(root: Path, repeats: int) -> dict[str, Any]:
    """Times the loading of every set in turns."""
    loads = {}
    for name, (cls, parts) in SETS.items():
        for part, (images, mean) in parts.items():
            path = root / f'{name}_{part}.json'
            write_annotations(path, cls, images, mean)

            def load(
                lazy: bool, cls: Any = cls, path: Path = path, part: str = part
            ) -> object:
                return cls(
                    ann_file=str(path),
                    data_root=str(root),
                    test_mode=part == 'test',
                    lazy_init=lazy,
                )

            loads[f'{name}_{part}'] = lambda load=load: load(False)
            loads[f'{name}_{part}_lazy'] = lambda load=load: load(True)
    seconds = medians(time_in_turns(loads, repeats))
    return {
        'seconds': seconds,
        'limit_seconds': LIMIT_SECONDS,
        'within_limit': max(seconds.values()) < LIMIT_SECONDS,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.repeats)
    report(result, args.out)


if __name__ == '__main__':
    main()
