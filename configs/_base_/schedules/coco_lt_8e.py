# COCO-LT: warm-up of 700 steps in one process, where an epoch has 705.
_base_ = './sgd_8e.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1 / 3,
        by_epoch=True,
        end=0.993,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', by_epoch=True, milestones=[5, 7], gamma=0.1),
]
