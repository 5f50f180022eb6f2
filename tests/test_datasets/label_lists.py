"""What the tests of samplers and streams share: labels without images."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).parents[3] / 'shared/data'
STREAMS = dict(
    uniform=dict(type='UniformSampler'),
    rebalanced=dict(type='ClassAwareMultiLabelSampler'),
)


def global_states():
    """What the global generators would draw next."""
    own = random.getstate(), str(np.random.get_state())
    return *own, torch.get_rng_state().tolist()


class LabelLists:
    """The least that a sampler needs of a dataset."""

    def __init__(self, lists, classes=None):
        self.lists = lists
        if classes is not None:
            self.metainfo = {'classes': tuple(classes)}

    def __len__(self):
        return len(self.lists)

    def get_cat_ids(self, index):
        return self.lists[index]


def single_labels(*counts):
    """A set in which every image has one label, so it tells its class."""
    return LabelLists([[k] for k, n in enumerate(counts) for _ in range(n)])


def multi_labels(num_images=60, num_classes=7, seed=0):
    """A set with 0 to several labels an image, each class present."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_images, num_classes)) < 0.25
    matrix[np.arange(num_classes), np.arange(num_classes)] = True
    return LabelLists([np.flatnonzero(row).tolist() for row in matrix])


def published(name):
    """The training labels of VOC-LT or COCO-LT; skips where absent."""
    file = SHARED / f'{name}_train.txt'
    if not file.exists():
        pytest.skip(f'reference data not found: {file}')
    rows = file.read_text().splitlines()
    return LabelLists([[int(k) for k in row.split()[1:]] for row in rows])
