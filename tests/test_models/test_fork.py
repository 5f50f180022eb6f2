"""The fork of a backbone: loading, initialisation, options, errors."""

import copy
import re

import pytest
import torch
from fork_cases import (
    assert_same_state,
    forked,
    images,
    initialised,
    is_equal,
    resnet,
    scramble,
    swin,
    vit,
)
from fork_rows import ROWS
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import ResNet
from mmpretrain.registry import MODELS
from torch import nn

from ltml_mm.models.fork.backbone import fork_backbone, fork_neck
from ltml_mm.models.fork.branches import sync_branches

pytestmark = pytest.mark.usefixtures('quiet')


# ---------------------------------------------------- weights and their start


def test_copies_differ_between_initialisation_and_synchronisation():
    # Why sync_branches is needed: initialisers draw for each copy.
    backbone = forked(resnet())
    backbone.init_weights()
    layer = backbone.layer4
    assert not is_equal(layer.uniform, layer.rebalanced)
    uniform = copy.deepcopy(layer.uniform)
    sync_branches(backbone)
    assert is_equal(layer.uniform, uniform)
    assert is_equal(layer.rebalanced, uniform)


def test_synchronisation_happens_once():
    backbone = initialised(forked(resnet()))
    scramble(backbone.layer4.rebalanced)
    sync_branches(backbone)
    assert not is_equal(backbone.layer4.uniform, backbone.layer4.rebalanced)


@pytest.fixture
def plain_checkpoint(tmp_path):
    plain = scramble(resnet(), seed=1)
    state = {f'backbone.{k}': v for k, v in plain.state_dict().items()}
    path = str(tmp_path / 'plain.pth')
    torch.save(dict(state_dict=state), path)
    return plain, path


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path, prefix='backbone.')


def test_reinit_keeps_the_fresh_copy_beside_a_plain_checkpoint(
    plain_checkpoint,
):
    plain, path = plain_checkpoint
    backbone = resnet(init_cfg=pretrained(path))
    fork_backbone(backbone, init='reinit')
    fresh = copy.deepcopy(backbone.layer4.rebalanced)
    assert not is_equal(backbone.layer4.uniform, fresh)
    initialised(backbone)
    assert is_equal(backbone.layer3, plain.layer3)
    assert is_equal(backbone.layer4.uniform, plain.layer4)
    assert is_equal(backbone.layer4.rebalanced, fresh)
    model = nn.Module()
    model.backbone = backbone
    load_checkpoint(model, path, strict=True)
    assert is_equal(backbone.layer4.rebalanced, fresh)


def test_reinit_without_a_checkpoint_starts_the_copies_apart():
    backbone = initialised(forked(resnet(), init='reinit'))
    assert not is_equal(backbone.layer4.uniform, backbone.layer4.rebalanced)
    norm = backbone.layer4.rebalanced[0].bn1
    assert torch.equal(norm.running_mean, torch.zeros(64))


def test_reinit_draws_attention_and_necks_anew():
    neck = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    branches = fork_neck(neck, 'reinit')
    names = '0.in_proj_weight', '1.weight'
    for name in names:
        one, other = (m.get_parameter(name) for m in branches.copies)
        assert not torch.equal(one, other)


def test_a_trunk_that_is_frozen_anew_at_each_run():
    config, names = ROWS['xcit']
    assert fork_backbone(MODELS.build({**config, 'frozen_stages': 2})) == names


@pytest.mark.parametrize('init', ['copy', 'reinit'])
def test_checkpoint_of_both_branches_loads_as_it_is(init, tmp_path):
    source = forked(resnet())
    scramble(source.layer4.rebalanced, seed=2)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    path = str(tmp_path / 'both.pth')
    torch.save(dict(state_dict=state), path)
    backbone = resnet(init_cfg=pretrained(path))
    initialised(forked(backbone, init=init))
    for branch in range(2):
        copies = backbone.layer4.copies[branch], source.layer4.copies[branch]
        assert is_equal(*copies)


def test_key_of_a_branch_wins_over_a_plain_one():
    source, backbone = resnet(), forked(resnet())
    state = source.state_dict()
    special = torch.full_like(state['layer4.0.conv1.weight'], 5)
    state['layer4.rebalanced.0.conv1.weight'] = special
    backbone.load_state_dict(state)
    layer = backbone.layer4
    assert torch.equal(layer.rebalanced[0].conv1.weight, special)
    assert is_equal(layer.uniform, source.layer4)
    assert is_equal(layer.rebalanced[1], source.layer4[1])


def test_checkpoint_of_one_branch_misses_the_other():
    backbone = forked(resnet())
    state = backbone.state_dict()
    half = {k: v for k, v in state.items() if '.rebalanced.' not in k}
    result = backbone.load_state_dict(half, strict=False)
    # torch itself fills in the counters of batches.
    assert set(result.missing_keys) == {
        k
        for k in state
        if '.rebalanced.' in k and not k.endswith('num_batches_tracked')
    }
    assert not result.unexpected_keys


def test_unknown_plain_key_is_still_reported():
    state = resnet().state_dict()
    state['layer4.9.weight'] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'layer4\.uniform\.9\.weight'):
        forked(resnet()).load_state_dict(state)


def test_assigned_weights_are_not_shared_by_the_copies():
    backbone = forked(resnet())
    backbone.load_state_dict(resnet().state_dict(), assign=True)
    uniform, rebalanced = backbone.layer4.copies
    pointers = [m[0].conv1.weight.data_ptr() for m in (uniform, rebalanced)]
    assert pointers[0] != pointers[1]


def test_the_caller_s_state_dict_is_left_alone():
    state = resnet().state_dict()
    keys = list(state)
    forked(resnet()).load_state_dict(state)
    assert list(state) == keys


# ------------------------------------------------- frozen stages, norm_eval


@pytest.mark.parametrize(
    ('backbone', 'names'),
    [
        (resnet(frozen_stages=4), ['layer4']),
        (resnet(norm_eval=True), ['layer4']),
        (swin(frozen_stages=3), ['stages.3', 'norm3']),
        (vit(frozen_stages=3), ['layers.2', 'ln1']),
    ],
    ids=['resnet', 'norm_eval', 'swin', 'vit'],
)
def test_frozen_stages_and_norms_hold_both_copies(backbone, names):
    assert fork_backbone(backbone) == names
    backbone.train()
    for name in names:
        for module in backbone.get_submodule(name).copies:
            learns = any(p.requires_grad for p in module.parameters())
            assert learns == getattr(backbone, 'norm_eval', False)
    if isinstance(backbone, ResNet):
        state = copy.deepcopy(backbone.state_dict())
        backbone(images(4))
        assert_same_state(backbone.state_dict(), state)


# ------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('at', 'message'),
    [
        ([], r"fork.at is empty.*fork=dict\(at=\['layer4'\]\)"),
        (
            ['layer5'],
            r"'layer5', which ResNet does not have.*children are conv1 "
            r'\(Conv2d\).*layer4\.0 \.\.\. layer4\.1 \(ResLayer\)',
        ),
        ('layer5', "'layer5', which ResNet does not have"),
        ([''], "'', which ResNet does not have"),
        (['layer4', 'layer4'], "'layer4' twice"),
        (['layer4', 'layer4.1'], "'layer4.1', which is inside 'layer4'"),
        (['layer4.1', 'layer4'], "'layer4.1', which is inside 'layer4'"),
    ],
)
def test_names_that_do_not_fit_are_an_error(at, message):
    backbone = resnet()
    keys = list(backbone.state_dict())
    with pytest.raises(ValueError, match=message):
        fork_backbone(backbone, at)
    assert list(backbone.state_dict()) == keys


def test_forking_twice_is_an_error():
    backbone = forked(resnet())
    for at in ('auto', ['layer4.uniform.0'], ['layer4']):
        with pytest.raises(ValueError, match='is forked'):
            fork_backbone(backbone, at)


def test_order_that_only_forward_knows_is_an_error():
    with pytest.raises(
        ValueError, match=r'TransformerEncoderLayer ran before "ln1"'
    ):
        forked(vit(), ['ln1', 'layers.2'])


@pytest.mark.parametrize(
    ('at', 'missing'),
    [
        (['layer3'], ['layer4']),
        ('layer3.1', ['layer4']),
        (['layer4.0'], ['layer4.1']),
        (['bn1', 'layer3'], ['layer1', 'layer2', 'layer4']),
    ],
)
def test_weights_behind_the_fork_that_stay_shared_are_named(at, missing):
    message = f'leaves .* behind the fork .*: add {re.escape(str(missing))}'
    with pytest.raises(ValueError, match=message):
        fork_backbone(resnet(), at)
