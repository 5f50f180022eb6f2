# VOC-LT: 1142 images to train, 4952 to test, 20 classes.
# Uniform samples, 64 of them a step.
_base_ = './multi_label_224.py'

data_root = 'data/voc_lt'

train_dataloader = dict(
    batch_size=64,
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            uniform=dict(
                type='UniformSampler', num_samples='class_max', reduce=2
            ),
        ),
        epoch_length='uniform',
    ),
    dataset=dict(dataset=dict(type='VOCLTDataset')),
)
val_dataloader = dict(dataset=dict(type='VOCLTDataset'))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=64)
