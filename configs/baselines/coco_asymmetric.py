# Asymmetric loss (ASL) on uniform samples of COCO-LT; differs from
# coco_uniform_bce in the loss alone.
_base_ = './coco_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassMeanLoss',
            loss=dict(type='AsymmetricLoss'),
        ),
    ),
)
