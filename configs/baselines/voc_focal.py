# Focal loss on uniform samples of VOC-LT.
_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/voc_lt_uniform.py',
    '../_base_/schedules/voc_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    head=dict(
        num_classes=20,
        loss=dict(
            type='ClassMeanLoss',
            # Weights of 0.5 for both polarities, times 2: plain focal loss.
            loss=dict(type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0),
        ),
    ),
)
