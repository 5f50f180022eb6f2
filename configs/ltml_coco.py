# LTML on COCO-LT: ResNet-50, 8 epochs of 22560 pairs, 32 pairs a step.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/coco_lt.py',
    './_base_/schedules/ltml_8e.py',
    './_base_/default_runtime.py',
]

model = dict(num_classes=80)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=700
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
val_evaluator = dict(branches=True)
test_evaluator = dict(branches=True)
