# VOC-LT: 1142 images to train, 4952 to test, 20 classes.
# Class-aware samples, 64 of them a step.
_base_ = './multi_label_224.py'

data_root = 'data/voc_lt'

train_dataloader = dict(
    batch_size=64,
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            rebalanced=dict(
                type='ClassAwareMultiLabelSampler',
                num_samples='class_max',
                reduce=2,
            ),
        ),
        epoch_length='rebalanced',
    ),
    dataset=dict(dataset=dict(type='VOCLTDataset')),
)
val_dataloader = dict(dataset=dict(type='VOCLTDataset'))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=64)
