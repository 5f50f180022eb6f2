# BCE weighted by inverse class frequency on uniform samples of COCO-LT;
# differs from coco_uniform_bce in the loss alone.
_base_ = './coco_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ReweightedBCELoss',
            num_classes={{_base_.model.head.num_classes}},
        ),
    ),
)
