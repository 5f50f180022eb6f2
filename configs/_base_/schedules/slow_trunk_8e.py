# 8 epochs of SGD for networks that start from pretrained weights: what both
# branches share learns at a tenth of the rate, all else at the rate itself.
_base_ = './sgd_8e.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            '.uniform.': dict(lr_mult=1.0),
            '.rebalanced.': dict(lr_mult=1.0),
        }
    ),
)
