# Asymmetric loss (ASL) on uniform samples of the demo set; differs from
# demo_uniform_bce in the loss alone.
_base_ = './demo_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassMeanLoss',
            loss=dict(type='AsymmetricLoss'),
        ),
    ),
)
