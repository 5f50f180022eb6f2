custom_imports = dict(imports=['ltml_mm'])
default_scope = 'mmpretrain'
runner_type = 'RunnerFromData'  # fills in the number of classes

data_root = 'data/mine'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            uniform=dict(type='UniformSampler'),
            rebalanced=dict(type='ClassAwareMultiLabelSampler'),
        ),
        epoch_length='rebalanced',
    ),
    dataset=dict(
        type='TwoStreamDataset',
        dataset=dict(
            type='LongTailMultiLabelDataset',
            ann_file='train.json',
            pipeline=pipeline,
        ),
    ),
)
model = dict(
    type='CollaborativeTwoBranchClassifier',
    backbone=dict(type='ResNet', depth=50),
    num_classes=None,
)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=8)
custom_hooks = [dict(type='ClassStatisticsHook')]
