# BCE weighted by inverse class frequency on uniform samples of any multi-
# label set; differs from custom_uniform_bce in the loss alone.
_base_ = './custom_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ReweightedBCELoss',
            num_classes={{_base_.model.head.num_classes}},
        ),
    ),
)
