# LTML on any multi-label set: --cfg-options data_root=data/my_data
#
# The folder holds train.json and test.json in MMPretrain's format, image
# paths relative to data_root, or to data_root/data_prefix. Where it holds
# val.json, too, training validates on that. The number of
# classes, their names and their training counts come from the data: what is
# None here is filled in by runner_type.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/multi_label_224.py',
    './_base_/schedules/sgd_8e.py',
    './_base_/default_runtime.py',
]

data_root = 'data/custom'
data_prefix = ''
model = dict(num_classes=None)
train_dataloader = dict(
    batch_size=32,  # pairs of a uniform and a class-aware image
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
)
# None: filled in from the number of classes and the images of a step. What
# both branches share comes with weights, and learns at a tenth of it.
optim_wrapper = dict(
    optimizer=dict(lr=None), paramwise_cfg=dict(trunk_lr_mult=0.1)
)
param_scheduler = [
    # One epoch of warm-up, however long that is.
    dict(
        type='LinearLR',
        start_factor=1 / 3,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', by_epoch=True, milestones=[5, 7], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=32)
# Stable at rates that suit many classes: "Stability" in docs/method.md. A list
# of your own takes their place; default_hooks.NAME=dict(type=...) adds one.
custom_hooks = [
    dict(type='PriorBiasHook'),
    dict(type='ConsistencyLimitHook'),
    dict(type='CompensationLimitHook'),
]
