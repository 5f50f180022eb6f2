# One branch alone, on class-aware samples of VOC-LT: LTML's weighted BCE
# without compensation.
_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/voc_lt_class_aware.py',
    '../_base_/schedules/voc_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    head=dict(
        num_classes=20,
        loss=dict(
            type='LogitCompensatedBCELoss',
            num_classes=20,
            compensation='none',
        ),
    ),
)
