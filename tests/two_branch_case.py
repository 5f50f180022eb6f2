"""A small two-branch network and its batches."""

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import ltml_mm  # noqa: F401
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.fork.branches import BRANCHES

K = 3
STATISTICS = ClassStatistics((60, 20, 3), num_images=100)
BACKBONE = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
#: Its first half, for what takes time with every layer.
STAGES = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
HALF = {**BACKBONE, **STAGES}


def build(**options):
    config = dict(
        type='CollaborativeTwoBranchClassifier',
        backbone=dict(BACKBONE),
        num_classes=K,
    )
    torch.manual_seed(0)
    model = MODELS.build({**config, **options})
    model.init_weights()
    for loss in model.loss_cls.values():
        if hasattr(loss, 'set_class_statistics'):
            loss.set_class_statistics(STATISTICS)
    return model


def batch(size=2, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = [[0], [0, 2], [], [1, 2], [1]]
    return {
        'inputs': {
            name: torch.rand(size, 3, side, side, generator=generator)
            for name in BRANCHES
        },
        'data_samples': {
            name: [
                DataSample().set_gt_label(labels[(i + shift) % 5])
                for i in range(size)
            ]
            for shift, name in enumerate(BRANCHES)
        },
    }
