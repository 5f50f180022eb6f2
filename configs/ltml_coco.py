# LTML on COCO-LT: ResNet-50, 8 epochs of 22560 pairs, 32 pairs a step.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/coco_lt_two_streams.py',
    './_base_/schedules/coco_lt_8e.py',
    './_base_/default_runtime.py',
]

model = dict(num_classes=80)
