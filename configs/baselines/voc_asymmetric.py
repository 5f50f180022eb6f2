# Asymmetric loss (ASL) on uniform samples of VOC-LT.
_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/voc_lt_uniform.py',
    '../_base_/schedules/voc_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    head=dict(
        num_classes=20,
        loss=dict(type='ClassMeanLoss', loss=dict(type='AsymmetricLoss')),
    ),
)
