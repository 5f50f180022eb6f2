# LTML on COCO-LT in a twelfth of the steps of ltml_coco.py, and at the rate
# that fits its classes: 8 epochs of 1880 pairs, 464 steps in one process.
_base_ = [
    '../_base_/models/ltml_resnet50.py',
    '../_base_/datasets/coco_lt_two_streams.py',
    '../_base_/schedules/coco_lt_8e.py',
    '../_base_/default_runtime.py',
]

model = dict(num_classes=80)
train_dataloader = dict(sampler=dict(epoch_length=1880))
optim_wrapper = dict(optimizer=dict(lr=None))
# Stable at this rate: "Stability" in docs/method.md.
custom_hooks = [
    dict(type='PriorBiasHook'),
    dict(type='ConsistencyLimitHook'),
    dict(type='CompensationLimitHook'),
]
