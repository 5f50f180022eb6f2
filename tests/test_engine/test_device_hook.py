"""Another memory layout is the same network."""

import os
from types import SimpleNamespace

import pytest
import torch
from engine_runner import make_runner
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmpretrain.registry import MODELS
from two_branch_case import BACKBONE, batch, build

from ltml_mm.engine import DeviceHook
from ltml_mm.engine.hooks import device_hook

LAST = torch.channels_last
WIDER = dict(BACKBONE, stem_channels=16, base_channels=16)


def gradients(model):
    """Loss, logits and gradients of one step in double precision."""
    data = model.data_preprocessor(batch(4), training=True)
    data['inputs'] = {k: v.double() for k, v in data['inputs'].items()}
    logits = model(data['inputs']['uniform'], mode='tensor')
    losses = model(**data, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    found = {k: p.grad for k, p in model.named_parameters()}
    return {**losses, 'logits': logits.detach(), **found}


@pytest.mark.parametrize('bn_streams', ['joint', 'separate'])
def test_channels_last_gives_the_same_step(bn_streams):
    options = dict(fork=dict(bn_streams=bn_streams), backbone=WIDER)
    plain, last = (build(**options).double() for _ in range(2))
    device_hook.arrange(last, 'channels_last')
    weight = last.backbone.layer4.rebalanced[0].conv1.weight
    assert weight.is_contiguous(memory_format=LAST)
    assert not weight.is_contiguous()
    torch.testing.assert_close(
        gradients(last), gradients(plain), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(
    'options', [{}, dict(foreach=True), dict(fused=False), dict(fused=True)]
)
def test_a_resume_brings_neither_the_step_of_a_gpu_nor_its_layout(options):
    numbers = torch.linspace(-1, 1, 8 * 6 * 9).view(8, 6, 3, 3)
    last = [numbers.contiguous(memory_format=LAST) for _ in range(3)]
    weights = [torch.nn.Parameter(values) for values in last]
    groups = [dict(params=weights[:2]), dict(params=weights[2:])]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, **options)
    for weight in weights:
        weight.grad = weight.detach().cos()
    for weight in weights[::2]:  # The second has had no gradient yet.
        optimizer.state[weight]['momentum_buffer'] = numbers.exp()
    for group in groups:
        group['fused'] = True  # As a GPU saves it.
    wrapper = OptimWrapperDict(own=OptimWrapper(optimizer))
    DeviceHook().before_train(SimpleNamespace(cfg={}, optim_wrapper=wrapper))
    assert [g['fused'] for g in groups] == [options.get('fused')] * 2
    # Whether such a step may be left out by itself.
    fused = bool(options.get('fused'))
    assert optimizer._step_supports_amp_scaling is fused
    groups[1]['dampening'] = 0.5
    device_hook.fit_optimizer(optimizer)
    assert not optimizer._step_supports_amp_scaling
    groups[1]['dampening'] = 0
    optimizer.step()
    for weight, share in zip(weights, (0.9, 0.0, 0.9), strict=True):
        expected = numbers - 0.1 * (share * numbers.exp() + numbers.cos())
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize(
    ('backbone', 'on_gpu', 'on_cpu'),
    [
        (dict(type='ResNet', depth=18), True, True),
        (dict(type='ResNeXt', depth=50), False, True),
        (dict(type='MobileNetV2'), False, True),
        (dict(type='ConvNeXt', arch='atto'), False, True),
        (dict(type='VisionTransformer', arch='deit-tiny'), True, False),
    ],
)
def test_which_networks_prefer_it(backbone, on_gpu, on_cpu):
    model = MODELS.build(backbone)
    assert not device_hook.prefers_channels_last(model)
    assert not device_hook.prefers_channels_last(model, 191)
    assert device_hook.prefers_channels_last(model, 192) is on_cpu
    # A GPU that is not there.
    model.parameters = lambda: iter([SimpleNamespace(is_cuda=True)])
    assert device_hook.prefers_channels_last(model, 192) is on_gpu


@pytest.mark.parametrize(
    ('conv', 'named'),
    [
        *(((15, 32, 1, 2), True), ((32, 32, 1, 2, 0, 1, 4), True)),
        *(((16, 32, 1, 2), False), ((15, 32, 1, 1), False)),
        ((15, 32, 3, 2), False),
    ],
)
def test_where_onednn_overruns_the_layout_stays(conv, named):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, conv[0], 3), torch.nn.Conv2d(*conv)
    )
    assert device_hook.find_overrun(model) == ('1' if named else '')
    assert device_hook.prefers_channels_last(model, 224) is not named
    if named:
        with pytest.raises(ValueError, match='1 is a 1x1 convolution'):
            device_hook.arrange(model, 'channels_last')
        assert model[0].weight.is_contiguous()
        runner = SimpleNamespace(cfg=dict(compile=True), model=model)
        with pytest.raises(ValueError, match='compile=True may crash'):
            DeviceHook().before_train(runner)
    assert not device_hook.find_overrun(model.to('meta'))
    assert not device_hook.prefers_channels_last(torch.nn.Linear(2, 2), 224)


def test_the_pipeline_tells_the_size():
    for steps, side in (
        ([dict(type='Resize', scale=(320, 256))], 256),
        ([dict(type='Resize', scale=256), dict(crop_size=224)], 224),
        ([dict(type='Resize', scale=None, scale_factor=2)], 0),
        ([torch.nn.Identity()], 0),
        (None, 0),
    ):
        inner = dict(dataset=dict(pipeline=steps))
        assert device_hook.picture_side(dict(dataset=inner)) == side
    assert device_hook.picture_side(dict(dataset=torch.nn.Identity())) == 0
    assert device_hook.picture_side(None) == 0


@pytest.mark.parametrize(
    ('memory_format', 'side', 'last'),
    [
        *(('auto', 224, True), ('auto', 64, False)),
        *(('channels_last', 64, True), ('contiguous', 224, False)),
    ],
)
@pytest.mark.parametrize('kind', ['train', 'test'])
def test_the_hook_acts_before_the_run(
    tmp_path, kind, memory_format, side, last
):
    conv = torch.nn.Conv2d(3, 4, 3)
    runner = make_runner(tmp_path)
    runner.model.convs = torch.nn.Sequential(conv, torch.nn.Conv2d(4, 4, 3))
    pipeline = [dict(type='RandomResizedCrop', scale=side)]
    runner.cfg = {f'{kind}_dataloader': dict(dataset=dict(pipeline=pipeline))}
    DeviceHook(memory_format).before_run(runner)
    assert conv.weight.is_contiguous(memory_format=LAST) is last


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="'nhwc'"):
        DeviceHook('nhwc')


@pytest.mark.parametrize('deterministic', [True, False])
def test_cublas_is_repeatable_in_a_deterministic_run(
    tmp_path, monkeypatch, deterministic
):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    torch.use_deterministic_algorithms(deterministic)
    try:
        DeviceHook().before_run(make_runner(tmp_path))
        found = os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == (':4096:8' if deterministic else None)
