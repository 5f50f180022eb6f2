# Focal loss weighted by the effective number of samples on uniform samples
# of the demo set; differs from demo_uniform_bce in the loss alone.
_base_ = './demo_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassBalancedFocalLoss',
            num_classes={{_base_.model.head.num_classes}},
            beta=0.9,
            gamma=2.0,
        ),
    ),
)
