# Both branches and their consistency on COCO-LT; differs from ltml_coco in
# the missing logit compensation alone.
_base_ = '../ltml_coco.py'

model = dict(
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
)
