# LTML on COCO-LT: ResNet-50, 8 epochs of 22560 pairs, 32 pairs a step.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/coco_lt.py',
    './_base_/schedules/ltml_8e.py',
    './_base_/default_runtime.py',
]

model = dict(num_classes=80)
param_scheduler = {{_base_.param_scheduler}}
param_scheduler[0].update(end=700)
val_evaluator = dict(branches=True)
test_evaluator = dict(branches=True)
