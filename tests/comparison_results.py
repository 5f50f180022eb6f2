"""Made-up results of a comparison."""

import numpy as np

from ltml_mm.experiments.run_config import RESULT, run_folder
from ltml_mm.files import write_json

COUNTS = {'dog': 120, 'cat': 60, 'owl': 60, 'newt': 7}
GROUP_OF = {'dog': 'head', 'cat': 'medium', 'owl': 'medium', 'newt': 'tail'}


def make_result(row, seed, variants=('fused', 'flip')):
    """The content of result.json; every row has figures of its own."""
    rng = np.random.default_rng([seed, *row.encode()])
    ap = {
        v: dict(zip(COUNTS, rng.uniform(40, 90, 4).tolist(), strict=True))
        for v in variants
    }
    metrics = {
        v: {
            'mAP': float(np.mean([*of.values()])),
            'mAP_head': of['dog'],
            'mAP_medium': (of['cat'] + of['owl']) / 2,
            'mAP_tail': of['newt'],
        }
        for v, of in ap.items()
    }
    return {
        'row': row,
        'seed': seed,
        'set': 'made up',
        'metrics': metrics,
        'classes': [
            {
                'name': name,
                'count': count,
                'group': GROUP_OF[name],
                'AP': {v: ap[v][name] for v in variants},
            }
            for name, count in COUNTS.items()
        ],
        'drift': None,
        'steps': 152,
        'images_per_step': 32,
        'seconds': 210.4,
        'device': 'cpu',
        'config_hash': f'hash of {row}',
    }


def write_result(out, row, seed, variants=('fused', 'flip'), /, **changes):
    """Leaves the result of a run, some of it changed; returns the file."""
    path = run_folder(out, row, seed) / RESULT
    write_json(path, make_result(row, seed, variants) | changes)
    return path
