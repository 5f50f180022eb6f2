"""Groups of parameters are few, and stepped as MMEngine's."""

import torch
from engine_runner import LABELS, Model
from mmengine.optim import build_optim_wrapper

from ltml_mm.models import LogitCompensatedBCELoss

KEYS = {
    'fc': dict(lr_mult=0.1),
    'pos_scale': dict(lr_mult=2.0, decay_mult=0.0),
    'neg_scale': dict(lr_mult=2.0),
}
PARAMWISE = dict(custom_keys=KEYS, bias_lr_mult=2.0, bypass_duplicate=True)
SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.3)


def trained(kind):
    """Groups, settings of each parameter, and weights after three steps."""
    torch.manual_seed(0)
    loss = LogitCompensatedBCELoss(weighting=False, num_classes=3)
    model = Model(loss=loss)
    model.again = torch.nn.Linear(1, 3, bias=False)
    model.again.weight = model.fc.weight  # Which is met twice.
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor=f'{kind}OptimWrapperConstructor',
            optimizer=SGD,
            paramwise_cfg=PARAMWISE,
        ),
    )
    names = {id(p): name for name, p in model.named_parameters()}
    settings = {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    for number in (1.0, 2.0, 3.0):
        losses = model(torch.tensor([[number], [0.5]]), LABELS[:2], 'loss')
        wrapper.update_params(losses['loss'])
    return wrapper.optimizer.param_groups, settings, model.state_dict()


def test_equal_settings_are_one_group():
    groups, settings, state = trained('FewGroups')
    stock, expected, stepped = trained('Default')
    assert settings == expected
    assert len(stock) == len(settings) > len(groups) == 4
    assert [*map(type, groups)] == [dict] * len({*settings.values()})
    torch.testing.assert_close(state, stepped, rtol=0, atol=0)
