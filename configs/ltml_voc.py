# LTML on VOC-LT: ResNet-50, 8 epochs of 3875 pairs, 32 pairs a step.
_base_ = [
    './_base_/models/ltml_resnet50.py',
    './_base_/datasets/voc_lt_two_streams.py',
    './_base_/schedules/voc_lt_8e.py',
    './_base_/default_runtime.py',
]

model = dict(num_classes=20)
