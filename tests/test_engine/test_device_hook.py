"""Another memory layout is the same network."""

import os

import pytest
import torch
from engine_runner import make_runner
from mmpretrain.registry import MODELS
from two_branch_case import batch, build

from ltml_mm.engine import DeviceHook
from ltml_mm.engine.hooks.device_hook import arrange, prefers_channels_last

LAST = torch.channels_last


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
    plain = build(fork=dict(bn_streams=bn_streams)).double()
    last = build(fork=dict(bn_streams=bn_streams)).double()
    arrange(last, 'channels_last')
    weight = last.backbone.layer4.rebalanced[0].conv1.weight
    assert weight.is_contiguous(memory_format=LAST)
    assert not weight.is_contiguous()
    torch.testing.assert_close(
        gradients(last), gradients(plain), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(
    ('backbone', 'expected'),
    [
        (dict(type='ResNet', depth=18), True),
        (dict(type='ResNeXt', depth=50), False),
        (dict(type='MobileNetV2'), False),
        (dict(type='ConvNeXt', arch='atto'), False),
    ],
    ids=lambda value: str(value),
)
def test_only_ungrouped_convolutions_prefer_it(backbone, expected):
    assert prefers_channels_last(MODELS.build(backbone)) is expected


def test_a_network_without_convolutions_keeps_its_layout():
    assert not prefers_channels_last(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ('memory_format', 'last'),
    [('auto', False), ('channels_last', True), ('contiguous', False)],
)
def test_the_hook_acts_before_the_run(tmp_path, memory_format, last):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    runner = make_runner(tmp_path)
    runner.model.conv = model
    DeviceHook(memory_format).before_run(runner)
    assert model[0].weight.is_contiguous(memory_format=LAST) is last


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
