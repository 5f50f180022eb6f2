# Plain BCE on class-aware samples of any multi-label set: a stock
# ImageClassifier with the data, schedule and number of images of
# ltml_custom, 64 images a step.
_base_ = '../ltml_custom.py'

model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone={{_base_.model.backbone}},
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='MultiLabelLinearClsHead',
        num_classes=None,
        in_channels=2048,
        loss=dict(
            type='ClassMeanLoss',
            loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
    ),
)
tta_model = dict(_delete_=True, type='AverageClsScoreTTA')
train_dataloader = dict(
    batch_size=64,
    sampler=dict(
        streams=dict(
            _delete_=True,
            rebalanced=dict(
                type='ClassAwareMultiLabelSampler',
                num_samples='class_max',
                reduce=2,
            ),
        ),
        epoch_length='rebalanced',
    ),
)
val_evaluator = dict(branches=False)
test_evaluator = dict(branches=False)
auto_scale_lr = dict(base_batch_size=64)
