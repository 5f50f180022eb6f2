# The protocol of VOC-LT and COCO-LT: 8 epochs, SGD, two drops.
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=150
    ),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=8,
        milestones=[5, 7],
        gamma=0.1,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# Counts pairs of a uniform and a re-balanced image, over all processes.
auto_scale_lr = dict(base_batch_size=32)
