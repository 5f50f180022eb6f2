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
    backbone=dict(
        type='ResNet',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    num_classes=None,
)
data_preprocessor = dict(  # of the weights, in RGB
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=8)
custom_hooks = [dict(type='ClassStatisticsHook'), dict(type='ClassReportHook')]

test_dataloader = dict(
    batch_size=32,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='LongTailMultiLabelDataset',
        ann_file='test.json',
        pipeline=[step for step in pipeline if step['type'] != 'RandomFlip'],
    ),
)
test_evaluator = dict(type='GroupedAveragePrecision')
test_cfg = dict()
