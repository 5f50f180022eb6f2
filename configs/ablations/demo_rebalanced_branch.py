# One branch alone, on class-aware samples of the demo set: the method's
# weighted BCE without compensation; differs from
# baselines/demo_class_aware_bce in the weights of the loss alone.
_base_ = '../baselines/demo_class_aware_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='LogitCompensatedBCELoss',
            num_classes={{_base_.model.head.num_classes}},
            compensation='none',
        ),
    ),
)
