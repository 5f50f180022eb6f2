# Plain BCE on uniform samples of COCO-LT.
_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/coco_lt_uniform.py',
    '../_base_/schedules/coco_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    head=dict(
        num_classes=80,
        loss=dict(
            type='ClassMeanLoss',
            loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
    ),
)
