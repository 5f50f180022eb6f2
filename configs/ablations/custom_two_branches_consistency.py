# Both branches and their consistency on any multi-label set; differs from
# ltml_custom in the missing logit compensation alone.
_base_ = '../ltml_custom.py'

model = dict(
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
)
