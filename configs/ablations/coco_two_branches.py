# Both branches on COCO-LT, each for itself: neither consistency nor
# compensation.
_base_ = [
    '../_base_/models/ltml_resnet50.py',
    '../_base_/datasets/coco_lt_two_streams.py',
    '../_base_/schedules/coco_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=80,
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
    loss_consistency=dict(type='CrossBranchConsistencyLoss', loss_weight=0.0),
)
