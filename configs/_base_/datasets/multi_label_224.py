# Any multi-label set in MMPretrain's JSON format, at 224 x 224 without keeping
# the ratio: the pipelines and loaders of VOC-LT and COCO-LT (protocol of the
# Distribution-Balanced Loss). Who inherits sets sampler and batch size.
# Of the type that the model takes: TwoStreamDataPreprocessor for LTML.
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
# Decoded images are kept in a file if they fit, see docs/speed.md.
image_cache = 'auto'
# Or 'device': distort and mirror in batches on the model's device.
augment_on = 'worker'
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomRatioCrop', min_ratio=0.8),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='RandomMirror', prob=0.5),
    dict(type='PackImage'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='TwoStreamDataset',
        dataset=dict(
            type='LongTailMultiLabelDataset',
            ann_file='train.json',
            pipeline=train_pipeline,
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
        type='LongTailMultiLabelDataset',
        ann_file=None,  # val.json where the set has one, else test.json
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    val_dataloader,
    dataset=dict(val_dataloader['dataset'], ann_file='test.json'),
)
val_evaluator = dict(type='GroupedAveragePrecision')
test_evaluator = val_evaluator
