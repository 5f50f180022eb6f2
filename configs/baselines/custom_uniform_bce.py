# Plain BCE on uniform samples of any multi-label set; all but the samples
# as in custom_class_aware_bce.
_base_ = './custom_class_aware_bce.py'

train_dataloader = dict(
    sampler=dict(
        streams=dict(
            _delete_=True,
            uniform=dict(
                type='UniformSampler',
                num_samples='class_max',
                reduce=2,
            ),
        ),
        epoch_length='uniform',
    ),
)
