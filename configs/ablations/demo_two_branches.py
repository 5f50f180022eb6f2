# Both branches on the demo set, each for itself; differs from
# demo_two_branches_consistency in lambda = 0 alone.
_base_ = './demo_two_branches_consistency.py'

model = dict(
    loss_consistency=dict(type='CrossBranchConsistencyLoss', loss_weight=0.0),
)
