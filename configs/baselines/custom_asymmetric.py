# Asymmetric loss (ASL) on uniform samples of any multi-label set; differs
# from custom_uniform_bce in the loss alone.
_base_ = './custom_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassMeanLoss',
            loss=dict(type='AsymmetricLoss'),
        ),
    ),
)
