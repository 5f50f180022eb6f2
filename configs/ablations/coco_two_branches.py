# Both branches on COCO-LT, each for itself; differs from
# coco_two_branches_consistency in lambda = 0 alone.
_base_ = './coco_two_branches_consistency.py'

model = dict(
    loss_consistency=dict(type='CrossBranchConsistencyLoss', loss_weight=0.0),
)
