"""A tiny two-stream training for tests that run the whole machinery."""

import itertools
import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

REPO = Path(__file__).parents[1]
CLASSES = ('common', 'medium', 'rare')
# One image has no label; the rare class one image.
LABELS = [[0], [0, 1], [0], [], [1], [0, 2], [0], [1], [0], [0, 1]]
NUMBERS = itertools.count()
TINY = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)

#: The same network with one branch, of stock parts.
STOCK = """
model = dict(
    _delete_=True, type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=32))
"""

#: The shipped config with a network and pictures of next to no size.
SMALL = """
_base_ = '{repo}/configs/ltml_custom.py'
experiment_name = 'small_{number}'
data_root = '{data}'
work_dir = '{folder}/work'
log_level = 'ERROR'
model = dict(backbone=dict(
    depth=18, stem_channels=4, base_channels=4, init_cfg=None))
optim_wrapper = dict(paramwise_cfg=dict(trunk_lr_mult=1))
train = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomRatioCrop', min_ratio=0.8),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]
test = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    sampler=dict(epoch_length=10, seed=3),
    dataset=dict(dataset=dict(pipeline=train)))
val_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=test))
test_dataloader = val_dataloader
param_scheduler = []
train_cfg = dict(max_epochs=1)
"""


def write_data(folder, labels=None, classes=CLASSES):
    """Writes small PNG images and their annotations."""
    labels = LABELS if labels is None else labels
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.png')
        images.append({'img_path': f'{number}.png', 'gt_label': label})
    content = {'metainfo': {'classes': classes}, 'data_list': images}
    (folder / 'train.json').write_text(json.dumps(content))
    return folder


def write_small(folder, labels=None, classes=CLASSES):
    """Writes pictures, annotations and SMALL; returns the config."""
    data = write_data(folder / 'data', labels, classes)
    (data / 'test.json').write_bytes((data / 'train.json').read_bytes())
    values = dict(repo=REPO, data=data, number=next(NUMBERS))
    config = folder / 'tiny.py'
    config.write_text(SMALL.format(folder=folder, **values))
    return config


def extend(config, text, name='changed.py'):
    """Writes a config that changes another; returns its path."""
    changed = config.with_name(name)
    changed.write_text(f"_base_ = '{config}'\n{text}")
    return changed


def loader(dataset, sampler, num_workers, batch_size, **options):
    return dict(
        batch_size=batch_size, num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=dict(type='default_collate'), sampler=sampler,
        dataset=dataset, **options,
    )  # fmt: skip


def make_config(data, work_dir, num_workers=0, by_epoch=True, steps=3):
    """Returns a config: 3 epochs of 3 steps, or as many steps alone.

    Args:
        by_epoch: Whether to train by epochs.
        steps: Checkpoints are saved every so many steps, 0 for epochs.
    """
    source = dict(
        type='LongTailMultiLabelDataset',
        data_root=str(data),
        ann_file='train.json',
    )
    load = dict(type='LoadImageFromFile')
    resize = dict(type='Resize', scale=(32, 32))
    pack = dict(type='PackInputs')
    augment = [
        dict(type='RandomRatioCrop', min_ratio=0.6),
        resize,
        dict(type='PhotoMetricDistortion'),
        dict(type='RandomFlip', prob=0.5),
    ]
    sampler = dict(
        type='TwoStreamSampler',
        streams=dict(
            uniform=dict(type='UniformSampler'),
            rebalanced=dict(type='ClassAwareMultiLabelSampler'),
        ),
        # Three steps of four, and two that drop_last leaves out.
        epoch_length=14,
        seed=3,
    )
    train = dict(
        type='TwoStreamDataset',
        dataset={**source, 'pipeline': [load, *augment, pack]},
    )
    val = {
        **source,
        'test_mode': True,
        'pipeline': [load, resize, pack],
        'metainfo': dict(class_counts=[7, 4, 1], num_train_images=10),
    }
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
    else:
        train_cfg = dict(by_epoch=False, max_iters=8, val_interval=4)
    saves = dict(interval=steps or 1, by_epoch=not steps)
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['ltml_mm']),
            experiment_name=f'tiny_{next(NUMBERS)}',
            work_dir=str(work_dir),
            model=dict(
                type='CollaborativeTwoBranchClassifier',
                backbone=dict(TINY, drop_path_rate=0.3),
                num_classes=3,
                data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
            ),
            train_dataloader=loader(
                train, sampler, num_workers, 4, drop_last=True
            ),
            val_dataloader=loader(
                val, dict(type='DefaultSampler', shuffle=False), num_workers, 5
            ),
            train_cfg=train_cfg,
            val_cfg=dict(),
            val_evaluator=dict(type='GroupedAveragePrecision'),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9)
            ),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=5),
                dict(type='MultiStepLR', by_epoch=True, milestones=[2]),
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=2),
                checkpoint=dict(type='SafeCheckpointHook', **saves),
                class_statistics=dict(type='ClassStatisticsHook'),
                exact_resume=dict(type='ExactResumeHook'),
            ),
            custom_hooks=[],
            log_processor=dict(by_epoch=by_epoch),
            log_level='WARNING',
            randomness=dict(seed=1),
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
        )
    )


def read_scalars(work_dir):
    """Reads what was logged: {(kind, step): values}, times aside."""
    scalars = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            kind = 'train' if 'lr' in values else 'val'
            key = kind, values['step']
            for name in ('time', 'data_time', 'memory'):
                values.pop(name, None)
            scalars[key] = values
    return scalars
