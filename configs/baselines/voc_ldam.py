# BCE with label-distribution-aware margins (LDAM) on uniform samples of VOC-
# LT; differs from voc_uniform_bce in the loss alone.
_base_ = './voc_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='MultiLabelLDAMLoss',
            num_classes={{_base_.model.head.num_classes}},
            max_margin=0.5,
            scale=30.0,
        ),
    ),
)
