# Both branches on any multi-label set, each for itself; differs from
# custom_two_branches_consistency in lambda = 0 alone.
_base_ = './custom_two_branches_consistency.py'

model = dict(
    loss_consistency=dict(type='CrossBranchConsistencyLoss', loss_weight=0.0),
)
