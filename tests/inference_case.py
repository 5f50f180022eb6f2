"""A small two-branch model, saved as a training leaves it, and images."""

from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

import ltml_mm  # noqa: F401

CLASSES = ['cat', 'dog', 'person', 'tüv [x]', 'zebra']
META = dict(
    classes=CLASSES, class_counts=[250, 20, 100, 4, 19], num_train_images=300
)
GROUPS = ['head', 'medium', 'head', 'tail', 'tail']

# Neither the annotation files nor the ImageNet weights exist.
CONFIG = """
custom_imports = dict(imports=['ltml_mm'])
default_scope = 'mmpretrain'
data_root = 'missing'
data_preprocessor = dict(mean=[120, 110, 100], std=[58, 57, 56], to_rgb=True)
model = dict(
    type={kind!r},
    backbone=dict(
        type='ResNet', depth=18, stem_channels=16, base_channels=16,
        out_indices=(3,),
        init_cfg=dict(type='Pretrained', checkpoint='missing.pth')),
    {rest})
train_dataloader = dict(
    dataset=dict(type='LongTailMultiLabelDataset', ann_file='train.json'))
test_dataloader = dict(dataset=dict(
    type='LongTailMultiLabelDataset', ann_file='test.json', test_mode=True,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=False),
        dict(type='PackInputs')]))
"""
TWO_BRANCH = ('CollaborativeTwoBranchClassifier', 'num_classes=None')
PLAIN = (
    'ImageClassifier',
    "neck=dict(type='GlobalAveragePooling'), head=dict("
    "type='MultiLabelLinearClsHead', num_classes=None, in_channels=128)",
)


def save_case(folder, kind=TWO_BRANCH, **meta):
    """Writes config and checkpoint; returns their paths and the model."""
    config = Path(folder) / 'config.py'
    config.write_text(CONFIG.format(kind=kind[0], rest=kind[1]))
    model = build(kind)
    checkpoint = Path(folder) / 'epoch_1.pth'
    meta = {'epoch': 1, 'dataset_meta': META, **meta}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, checkpoint)
    return config, checkpoint, model


def build(kind):
    sides = dict(stem_channels=16, base_channels=16)
    backbone = dict(type='ResNet', depth=18, out_indices=(3,), **sides)
    rest = eval(f'dict({kind[1].replace("None", str(len(CLASSES)))})')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.manual_seed(0)
        model = MODELS.build(dict(type=kind[0], backbone=backbone, **rest))
    for name, value in model.state_dict().items():
        if name.endswith('fc.weight'):
            value.mul_(80)  # scores spread over 0 to 1, not all near 0.5
    return model.eval()


def pixels(seed, height=48, width=80):
    """A picture of smooth colours, RGB."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    size = (width, height)
    return np.asarray(Image.fromarray(small).resize(size, Image.BICUBIC))


def save(path, seed=0, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = Image.registered_extensions()[
        f'.{path.name.split(".")[-1].lower()}'
    ]
    Image.fromarray(pixels(seed, **kwargs)).save(path, kind)
    return path
