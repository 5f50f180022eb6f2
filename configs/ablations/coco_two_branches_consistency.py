# Both branches and their consistency on COCO-LT, without compensation.
_base_ = [
    '../_base_/models/ltml_resnet50.py',
    '../_base_/datasets/coco_lt_two_streams.py',
    '../_base_/schedules/coco_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=80,
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
)
