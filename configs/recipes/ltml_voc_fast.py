# LTML on VOC-LT in a twelfth of the steps of ltml_voc.py, and at the rate that
# fits its classes: 8 epochs of 323 pairs, 80 steps in one process.
_base_ = [
    '../_base_/models/ltml_resnet50.py',
    '../_base_/datasets/voc_lt_two_streams.py',
    '../_base_/schedules/voc_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(num_classes=20)
train_dataloader = dict(sampler=dict(epoch_length=323))
optim_wrapper = dict(optimizer=dict(lr=None))
# Stable at this rate: "Stability" in docs/method.md.
custom_hooks = [
    dict(type='PriorBiasHook'),
    dict(type='ConsistencyLimitHook'),
    dict(type='CompensationLimitHook'),
]
