# Asymmetric loss (ASL) on uniform samples of VOC-LT; differs from
# voc_uniform_bce in the loss alone.
_base_ = './voc_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassMeanLoss',
            loss=dict(type='AsymmetricLoss'),
        ),
    ),
)
