"""Made-up results of a comparison."""

import numpy as np

from ltml_mm.experiments.runs import RESULT, run_folder
from ltml_mm.files import write_json

CLASSES = [
    {'name': name, 'train_images': count, 'group': group}
    for name, count, group in [
        ('dog', 120, 'head'),
        ('cat', 60, 'medium'),
        ('newt', 7, 'tail'),
    ]
]
KEYS = ['mAP', 'mAP_head', 'mAP_medium', 'mAP_tail']


def make_result(row, seed, variants=('fused', 'flip')):
    """The content of result.json; every row has figures of its own."""
    rng = np.random.default_rng([seed, *row.encode()])
    return {
        'row': row,
        'seed': seed,
        'set': 'made up',
        'metrics': {
            variant: dict(
                zip(KEYS, rng.uniform(40, 90, 4).tolist(), strict=True)
            )
            for variant in variants
        },
        'classes': CLASSES,
        'drift': None,
        'steps': 152,
        'images_per_step': 32,
        'seconds': 210.4,
        'device': 'cpu',
    }


def write_result(out, row, seed, variants=('fused', 'flip'), /, **changes):
    """Leaves the result of a run, some of it changed; returns the file."""
    path = run_folder(out, row, seed) / RESULT
    write_json(path, make_result(row, seed, variants) | changes)
    return path
