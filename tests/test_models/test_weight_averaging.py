"""The average of the two branches, against numpy and the fused network."""

import copy

import numpy as np
import pytest
import torch
from fork_cases import assert_same_state, images, is_equal, scramble
from fork_rows import ROWS
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

import ltml_mm  # noqa: F401
from ltml_mm.models.fork.branches import Branches
from ltml_mm.models.parts import build_neck
from ltml_mm.models.weight_averaging import (
    branch_drift,
    merge_branches,
    merged_modules,
    reestimate_norms,
)

pytestmark = pytest.mark.usefixtures('quiet')
K = 3
LINEAR_NECK = dict(
    type='LinearNeck', in_channels=64, out_channels=6, gap_dim=2
)


def two_branch(row='resnet', seed=0, **options):
    """A two-branch network that no zero and no one makes symmetric."""
    torch.manual_seed(seed)
    config = dict(type='CollaborativeTwoBranchClassifier', num_classes=K)
    backbone = copy.deepcopy(ROWS[row][0])
    model = MODELS.build(dict(**config, backbone=backbone, **options))
    scramble(model, seed)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


def equal_stages(model):
    for module in model.modules():
        if isinstance(module, Branches):
            module.sync()
    return model


def stock(row='resnet', neck='auto', in_channels=64):
    torch.manual_seed(99)
    plain = MODELS.build(copy.deepcopy(ROWS[row][0]))
    neck = build_neck(neck, plain)
    head = dict(type='MultiLabelLinearClsHead', num_classes=K)
    head['in_channels'] = in_channels
    model = dict(backbone=plain, neck=neck, head=head)
    return MODELS.build(dict(type='ImageClassifier', **model)).eval()


def merged_stock(model, *args):
    network = stock(*args)
    network.load_state_dict(merge_branches(model.state_dict()), strict=True)
    return network


@pytest.mark.parametrize(
    ('row', 'side', 'channels', 'neck'),
    [
        *(('resnet', 32, 64, 'auto'), ('resnet', 32, 6, LINEAR_NECK)),
        *(('swin', 64, 128, 'auto'), ('convnext', 32, 16, 'auto')),
        *(('vit', 32, 16, None), ('repvgg-ppf', 64, 64, 'auto')),
    ],
)
@torch.no_grad()
def test_heads_over_equal_stages_merge_to_the_fused_network(
    row, side, channels, neck
):
    model = equal_stages(two_branch(row, neck=neck))
    assert branch_drift(model.state_dict()) == 0
    assert not is_equal(*model.heads.values())
    network = merged_stock(model, row, neck, channels)
    pictures = images(2, side)
    expected, actual = model(pictures), network(pictures, mode='tensor')
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_every_weight_is_the_average_of_its_copies():
    state = two_branch(neck=LINEAR_NECK).state_dict()
    state['backbone.layer4.uniform.0.bn1.num_batches_tracked'] += 7
    before = copy.deepcopy(state)
    merged = merge_branches(state)
    assert merged.keys() == stock('resnet', LINEAR_NECK, 6).state_dict().keys()
    checked = 0
    for name, value in merged.items():
        root, _, rest = name.partition('.')
        root = {'head': 'heads'}.get(root, root)
        if name.startswith('backbone.layer4.'):
            root, rest = 'backbone.layer4', name[len('backbone.layer4.') :]
        first, second = f'{root}.uniform.{rest}', f'{root}.rebalanced.{rest}'
        if first not in state:
            assert torch.equal(value, state[name])
        elif name.endswith('num_batches_tracked'):
            assert value == state[first]
        else:
            expected = np.mean([state[first], state[second]], axis=0)
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
            assert not torch.equal(state[first], state[second])
            checked += 1
    assert checked > 20
    assert_same_state(state, before)


def test_half_precision_is_averaged_in_full():
    largest = torch.tensor([60000.0], dtype=torch.float16)
    state = {
        'heads.uniform.fc.weight': largest,
        'heads.rebalanced.fc.weight': largest,
    }
    (weight,) = merge_branches(state).values()
    assert weight.dtype == torch.float16
    assert torch.equal(weight, largest)


def test_the_merged_modules():
    assert merged_modules(two_branch().state_dict()) == [
        'backbone.layer4',
        'head',
    ]
    forked = two_branch('convnext').state_dict()
    expected = [f'backbone.{name}' for name in ROWS['convnext'][1]]
    assert sorted(merged_modules(forked)) == sorted([*expected, 'head'])


def test_drift_is_that_of_a_numpy_loop():
    state = two_branch().state_dict()
    first, second = (
        np.concatenate(
            [
                value.numpy().astype(np.float64).ravel()
                for key, value in state.items()
                if key.startswith(f'backbone.layer4.{branch}.')
                and not key.endswith(('_mean', '_var', '_tracked'))
            ]
        )
        for branch in ('uniform', 'rebalanced')
    )
    distance = np.linalg.norm(first - second)
    expected = distance / np.linalg.norm((first + second) / 2)
    assert branch_drift(state) == pytest.approx(expected, rel=1e-9)


def test_drift_of_strangers_and_opposites():
    def state(first, second):
        heads = {
            f'heads.{b}.fc.bias': first for b in ('uniform', 'rebalanced')
        }
        stage = 'backbone.layer4.{}.weight'
        return {
            **heads,
            stage.format('uniform'): first,
            stage.format('rebalanced'): second,
        }

    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 100_000, generator=generator)
    assert branch_drift(state(first, second)) == pytest.approx(2, rel=0.02)
    assert branch_drift(state(first, -first)) == float('inf')


def damaged(**changes):
    state = {
        'backbone.layer4.uniform.weight': torch.ones(2),
        'backbone.layer4.rebalanced.weight': torch.ones(2),
        'heads.uniform.fc.bias': torch.ones(3),
        'heads.rebalanced.fc.bias': torch.ones(3),
    }
    for key, value in changes.items():
        name = key.replace('__', '.')
        state.pop(name) if value is None else state.update({name: value})
    return state


UNMERGEABLE = [
    ({'head.fc.bias': torch.ones(3)}, r'first is "head\.fc\.bias"; give'),
    ({}, 'no two branches to merge'),
    (damaged(backbone__layer4__rebalanced__weight=None),
     r'backbone\.layer4\.weight is missing for branch "rebalanced"'),
    (damaged(heads__uniform__fc__bias=torch.ones(4)),
     r'head\.fc\.bias has other shapes in the branches, \(4,\)'),
    (damaged(heads__uniform__fc__bias=torch.tensor([1, np.nan, 1])),
     r'head\.fc\.bias holds values that are not finite'),
    (damaged(backbone__layer4__uniform__index=torch.tensor([1]),
             backbone__layer4__rebalanced__index=torch.tensor([2])),
     r'layer4\.index holds integers that differ'),
]  # fmt: skip


@pytest.mark.parametrize(('state', 'message'), UNMERGEABLE)
def test_what_cannot_be_merged(state, message):
    with pytest.raises(ValueError, match=message):
        merge_branches(state)


def test_reestimated_statistics_are_those_of_all_images():
    model = two_branch()
    network = merged_stock(model)
    modules = merged_modules(model.state_dict())
    pictures = images(7)
    inputs = []
    layer = network.backbone.layer4[0].conv1
    hook = layer.register_forward_hook(lambda *args: inputs.append(args[-1]))
    before = copy.deepcopy(network.state_dict())
    assert reestimate_norms(network, pictures.split([4, 3]), modules) == 7
    hook.remove()
    norm = network.backbone.layer4[0].bn1
    # Each batch's own mean and variance, weighted by its images.
    means = [x.double().numpy().mean((0, 2, 3)) for x in inputs]
    variances = [x.double().numpy().var((0, 2, 3), ddof=1) for x in inputs]
    for actual, parts in (
        (norm.running_mean, means),
        (norm.running_var, variances),
    ):
        expected = (4 * parts[0] + 3 * parts[1]) / 7
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert norm.momentum == 0.1
    after = network.state_dict()
    for key, value in before.items():
        changed = key.startswith('backbone.layer4.') and key.endswith(
            ('_mean', '_var', '_tracked')
        )
        assert torch.equal(after[key], value) != changed, key


@torch.no_grad()
def test_with_its_own_statistics_a_batch_is_seen_as_in_training():
    """The later layers are measured behind the earlier ones' new ones."""
    network = merged_stock(two_branch())
    pictures = images(4, 128)
    stale = network(pictures, mode='tensor')
    reestimate_norms(network, [pictures], ['backbone.layer4'])
    actual = network(pictures, mode='tensor')
    network.backbone.layer4.train()
    expected = network(pictures, mode='tensor')
    # Training divides by n, evaluation by n - 1: here 64 values a channel.
    torch.testing.assert_close(actual, expected, rtol=0.03, atol=0.03)
    assert (stale - expected).abs().max() > 0.3


def test_norms_that_cannot_be_estimated():
    network = merged_stock(two_branch())
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match='no BatchNorm here'):
        reestimate_norms(network, [images(2)], ['head'])
    with pytest.raises(ValueError, match='no images'):
        reestimate_norms(network, [], ['backbone.layer4'])
    assert_same_state(network.state_dict(), before)


def test_the_modes_are_as_before():
    network = merged_stock(two_branch())
    network.train()
    network.backbone.layer1.eval()
    before = [module.training for module in network.modules()]
    reestimate_norms(network, [images(2)], ['backbone.layer4'])
    assert [module.training for module in network.modules()] == before
