# Distribution-balanced focal loss (DB-Focal) on class-aware samples of
# VOC-LT.
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
            type='DistributionBalancedLoss',
            num_classes=20,
            alpha=0.1,
            beta=10.0,
            mu=0.3,
            neg_scale=5.0,
            kappa=0.05,
            gamma=2.0,
            loss_weight=2.0,
        ),
    ),
)
