# LTML on VOC-LT: ResNet-50, 8 epochs of 3875 pairs, 32 pairs a step.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/voc_lt.py',
    './_base_/schedules/ltml_8e.py',
    './_base_/default_runtime.py',
]

model = dict(num_classes=20)
val_evaluator = dict(branches=True)
test_evaluator = dict(branches=True)
