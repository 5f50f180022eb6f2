# Procedural pictures of 64 x 64 with VOC-LT's class counts, no download.
# Of the type that the model takes: TwoStreamDataPreprocessor for LTML.
data_preprocessor = dict(
    mean=[118.0, 118.0, 118.0],
    std=[50.0, 50.0, 50.0],
    to_rgb=True,
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=64, padding=6, padding_mode='reflect'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=32,  # pairs of a uniform and a re-balanced image
    num_workers=1,
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
            type='LongTailDemoDataset',
            split='train',
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='LongTailDemoDataset',
        split='test',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='GroupedAveragePrecision')
test_evaluator = val_evaluator
