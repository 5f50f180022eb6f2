# One branch alone, on class-aware samples of COCO-LT: the method's weighted
# BCE without compensation; differs from baselines/coco_class_aware_bce in
# the weights of the loss alone.
_base_ = '../baselines/coco_class_aware_bce.py'

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
