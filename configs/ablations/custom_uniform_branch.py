# One branch alone, on uniform samples of any multi-label set: the method's
# weighted BCE without compensation; differs from
# baselines/custom_uniform_bce in the weights of the loss alone.
_base_ = '../baselines/custom_uniform_bce.py'

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
