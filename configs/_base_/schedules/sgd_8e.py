# 8 epochs of SGD. Who inherits sets the learning rate's schedule.
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    constructor='FewGroupsOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=1)
val_cfg = dict()
test_cfg = dict()
