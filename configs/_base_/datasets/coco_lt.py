# COCO-LT: 1909 images to train, 5000 to test, 80 classes.
_base_ = './pipelines_224.py'

train_dataloader = dict(
    batch_size=32,  # pairs of a uniform and a re-balanced image
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            uniform=dict(type='UniformSampler'),
            rebalanced=dict(
                type='ClassAwareMultiLabelSampler',
                num_samples='class_max',
                reduce=4,
            ),
        ),
        epoch_length='rebalanced',
    ),
    dataset=dict(
        type='TwoStreamDataset',
        dataset=dict(
            type='COCOLTDataset',
            ann_file='train.json',
            pipeline={{_base_.train_pipeline}},
        ),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='COCOLTDataset',
        ann_file='test.json',
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='GroupedAveragePrecision')
test_evaluator = val_evaluator
