# Both branches and their consistency on the demo set; differs from ltml_demo
# in the missing logit compensation alone.
_base_ = '../ltml_demo.py'

model = dict(
    loss_cls=dict(type='LogitCompensatedBCELoss', compensation='none'),
)
