# Both branches on VOC-LT, each for itself; differs from
# voc_two_branches_consistency in lambda = 0 alone.
_base_ = './voc_two_branches_consistency.py'

model = dict(
    loss_consistency=dict(type='CrossBranchConsistencyLoss', loss_weight=0.0),
)
