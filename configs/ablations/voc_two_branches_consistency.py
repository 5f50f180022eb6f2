# Both branches and their consistency on VOC-LT; differs from ltml_voc in the
# missing logit compensation alone.
_base_ = '../ltml_voc.py'

model = dict(
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
)
