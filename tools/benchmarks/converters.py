"""Measures the split and the converter of COCO-LT at COCO's size.

Writes annotations with the numbers of images, objects and bytes of COCO 2017,
and runs ``tools/dataset_converters/coco_lt.py`` on them in a process of its
own, whose largest resident memory counts. The images are empty files.

Example:
    python tools/benchmarks/converters.py --out out/converters.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from timing import medians, report, time_in_turns


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument(
        '--scale', type=float, default=1.0, help="share of COCO's size"
    )
    parser.add_argument('--out', type=Path, help='JSON file of the result')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np

from ltml_mm.datasets.published import COCO_CLASSES
from ltml_mm.datasets.splits import COCO_LT

TOOL = Path(__file__).parents[1] / 'dataset_converters' / 'coco_lt.py'
# Images, and objects, of the parts of COCO 2017.
PARTS = {'train2017': (118287, 860001), 'val2017': (5000, 36781)}
LIMIT_GB = 4.0


def write_part(root: Path, part: str, images: int, objects: int) -> int:
    """Writes one annotation file and its empty images.

    Args:
        root: The folder of COCO.
        part: ``train2017`` or ``val2017``.
        images: How many images.
        objects: How many objects, each with an outline of about 70 numbers.

    Returns:
        int: The bytes of the annotation file.
    """
    rng = np.random.default_rng(0)
    folder = root / part
    folder.mkdir()
    path = root / 'annotations' / f'instances_{part}.json'
    shares = np.geomspace(1, 0.005, 80)
    classes = rng.choice(80, objects, p=shares / shares.sum())
    owners = rng.integers(0, images, objects)
    outlines = [
        json.dumps([np.round(rng.random(70) * 600, 2).tolist()])
        for _ in range(1000)
    ]
    with path.open('w') as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i in range(images):
            name = f'{i + 1:012d}.jpg'
            (folder / name).touch()
            file.write(', ' * (i > 0) + _image(i + 1, name))
        file.write('], "annotations": [')
        _write_objects(file, classes, owners, outlines)
        categories = [
            {'supercategory': 'any', 'id': k + 1, 'name': name}
            for k, name in enumerate(COCO_CLASSES)
        ]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path.stat().st_size


def _image(image_id: int, name: str) -> str:
    url = f'http://images.cocodataset.org/train2017/{name}'
    value = {
        'license': 3,
        'file_name': name,
        'coco_url': url,
        'height': 360,
        'width': 640,
        'date_captured': '2013-11-14 11:18:45',
        'flickr_url': url,
        'id': image_id,
    }
    return json.dumps(value)


def _write_objects(
    file: TextIO, classes: np.ndarray, owners: np.ndarray, outlines: list[str]
) -> None:
    for i, (k, owner) in enumerate(
        zip(classes.tolist(), owners.tolist(), strict=True)
    ):
        file.write(
            f'{", " * (i > 0)}{{"segmentation": {outlines[i % 1000]}, '
            '"area": 702.1057499999998, "iscrowd": 0, '
            f'"image_id": {owner + 1}, '
            '"bbox": [473.07, 395.93, 38.65, 28.67], '
            f'"category_id": {k + 1}, "id": {i + 1}}}'
        )


def measure_split(repeats: int, scale: float) -> dict[str, Any]:
    """Times the split of labels of COCO's size."""
    images = int(PARTS['train2017'][0] * scale)
    rng = np.random.default_rng(0)
    shares = np.geomspace(0.5, 0.002, 80)
    labels = (rng.random((images, 80)) < shares).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        times = time_in_turns(
            {'pareto_split': lambda: COCO_LT.recipe.split(labels)}, repeats
        )
    return {'labels': list(labels.shape), 'seconds': medians(times)}


def measure_memory(scale: float) -> dict[str, Any]:
    """Runs the converter and reads its largest resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / 'coco'
        (root / 'annotations').mkdir(parents=True)
        sizes = {
            part: write_part(root, part, *(int(n * scale) for n in numbers))
            for part, numbers in PARTS.items()
        }
        command = [sys.executable, TOOL, root, '--out', Path(folder) / 'out']
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
    # Kibibytes on Linux; of the largest child, and there is but one.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        'annotation_bytes': sizes,
        'seconds': seconds,
        'peak_gb': peak / 1e9,
        'limit_gb': LIMIT_GB,
        'within_limit': peak / 1e9 <= LIMIT_GB,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = parse_args(argv)
    result = {
        'split': measure_split(args.repeats, args.scale),
        'coco_lt': measure_memory(args.scale),
    }
    report(result, args.out)


if __name__ == '__main__':
    main()
