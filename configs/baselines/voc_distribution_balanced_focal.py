# Distribution-balanced focal loss (DB-Focal) on class-aware samples of VOC-
# LT; differs from voc_class_aware_bce in the loss alone.
_base_ = './voc_class_aware_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='DistributionBalancedLoss',
            num_classes={{_base_.model.head.num_classes}},
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
