# Plain BCE on uniform samples of VOC-LT; all but the samples
# as in voc_class_aware_bce.
_base_ = './voc_class_aware_bce.py'

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
