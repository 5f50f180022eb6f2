# ltml_custom with what was ahead of it on held-out photographs, on any set:
# --cfg-options data_root=data/my_data. The table is in README.md beside it.
_base_ = '../ltml_custom.py'

train_dataloader = dict(
    sampler=dict(streams=dict(rebalanced=dict(type='RepeatFactorSampler')))
)
param_scheduler = [
    # One epoch of warm-up, then half a cosine in place of drops.
    dict(
        type='LinearLR',
        start_factor=1 / 3,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=7,
        by_epoch=True,
        begin=1,
        end=8,
        convert_to_iter_based=True,
    ),
]
