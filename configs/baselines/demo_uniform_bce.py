# Plain BCE on uniform samples of the demo set; all but the samples
# as in demo_class_aware_bce.
_base_ = './demo_class_aware_bce.py'

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
