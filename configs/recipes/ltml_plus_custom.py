# ltml_custom with what was ahead of it on held-out photographs, on any set:
# --cfg-options data_root=data/my_data. The table is in README.md beside it.
_base_ = [
    '../_base_/models/ltml_resnet50.py',
    '../_base_/datasets/multi_label_224.py',
    '../_base_/schedules/sgd_8e.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/custom'
data_prefix = ''
# At test each class looks at the positions that score highest.
model = dict(num_classes=None, head=dict(type='AttentionAtTestHead'))
train_dataloader = dict(
    batch_size=32,  # pairs of a uniform and a class-aware image
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            uniform=dict(type='UniformSampler'),
            rebalanced=dict(type='RepeatFactorSampler'),
        ),
        epoch_length='rebalanced',
    ),
)
# None: filled in from the number of classes and the images of a step. Ten
# times the usual weight decay. What both branches share learns at a tenth of
# the rate.
optim_wrapper = dict(
    optimizer=dict(lr=None, weight_decay=1e-3),
    paramwise_cfg=dict(trunk_lr_mult=0.1),
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
    # Half a cosine in place of drops.
    dict(
        type='CosineAnnealingLR',
        T_max=7,
        by_epoch=True,
        begin=1,
        end=8,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=32)
# Stable at rates that suit many classes: "Stability" in docs/method.md.
custom_hooks = [
    dict(type='PriorBiasHook'),
    dict(type='ConsistencyLimitHook'),
    dict(type='CompensationLimitHook'),
]
