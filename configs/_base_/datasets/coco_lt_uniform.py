# COCO-LT: 1909 images to train, 5000 to test, 80 classes.
# Uniform samples, 64 of them a step.
_base_ = './multi_label_224.py'

data_root = 'data/coco_lt'

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
    dataset=dict(dataset=dict(type='COCOLTDataset')),
)
val_dataloader = dict(dataset=dict(type='COCOLTDataset'))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=64)
