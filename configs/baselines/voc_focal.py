# Focal loss, positives and negatives alike on uniform samples of VOC-LT;
# differs from voc_uniform_bce in the loss alone.
_base_ = './voc_uniform_bce.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ClassMeanLoss',
            # Weights of 0.5 for both polarities, times 2: plain focal loss.
            loss=dict(type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0),
        ),
    ),
)
