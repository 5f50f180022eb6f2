# LTML on the procedural demo set: no download, a CPU, minutes. It shows that
# the machinery runs, not what the method gains: that takes pretrained
# features.
#
# A small network from scratch instead of an ImageNet backbone, so another
# optimizer and schedule than the protocol's. The rate of AdamW does not follow
# from the number of classes, so it stands here.
_base_ = ['./_base_/datasets/demo.py', './_base_/default_runtime.py']

# Neck, heads and losses are the defaults (ltml_mm/models/parts.py).
model = dict(
    type='CollaborativeTwoBranchClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=32, base_channels=32),
    num_classes=20,
)
tta_model = dict(type='CollaborativeTTA')

optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=0.003, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=5,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=5, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)
