"""Every row of the `fork.at='auto'` table, against the plain backbone."""

import copy
import functools
import importlib
import re
from pathlib import Path

import pytest
import torch
from fork_cases import assert_same_state, flat
from fork_rows import ROWS, SMALL, VIT, side
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models.backbones import swin_transformer
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn.functional import interpolate

from ltml_mm.models.fork import branches
from ltml_mm.models.fork.backbone import (
    FAMILIES,
    auto_fork_points,
    fork_backbone,
)
from ltml_mm.models.parts import image_shape

pytestmark = pytest.mark.usefixtures('quiet')
#: Rows whose last stage is found, and whose outputs are split, as those of
#: another one: that of the row whose name heads the line.
LONG = {
    'resnet': 'resnet-cifar resnetv1c resnetv1d resnext seresnet seresnext '
    'resnest res2net regnet timm-regnet timm-resnet-features',
    'vgg': 'vgg-bn',
    'densenet': 'densenet-121',
    'mobilenetv2': 'mobilevit',
    'mobilenetv3-small': 'mobilenetv3-large efficientnet',
    'convnext': 'edgenext hornet',
    'swin': 'davit tinyvit mixmim timm-swinv2',
    'vit': 'deit-avg deit3 eva02 mlp-mixer hivit tnt',
    'repvgg-ppf': 'repvgg mobileone',
    'poolformer': 'van',
    'twins-pcpvt': 'twins-svt',
    'efficientformer': 'timm-efficientformer',
    'timm-efficientnet': 'timm-mobilenetv3 timm-mobilenetv4 timm-ghostnet',
    'timm-eva02': 'timm-beit',
    'timm-mambaout': 'timm-davit timm-maxvit',
}
DUPLICATES = {row for rows in LONG.values() for row in rows.split()}
every_row = pytest.mark.parametrize(
    'row',
    [
        pytest.param(row, marks=pytest.mark.long if row in DUPLICATES else ())
        for row in ROWS
    ],
)


@functools.cache
def built(row):
    torch.manual_seed(0)
    # A backbone may change a list of its config in place.
    return MODELS.build(copy.deepcopy(ROWS[row][0]))


def build(row):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    return copy.deepcopy(built(row))


def scrambled(row):
    """A forked backbone with other weights, as one that is new."""
    backbone, names = forked(row)
    perturb(backbone)
    for name in names:
        backbone.get_submodule(name).awaits_sync = True
    return backbone


@functools.cache
def plain_and_names(row):
    """A plain backbone with weights that no zero or one hides."""
    plain = build(row)
    perturb(plain)
    return plain, *fork(copy.deepcopy(plain))


@torch.no_grad()
def perturb(module):
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    for name, buffer in module.named_buffers():
        if name.endswith('running_mean'):
            buffer.add_(torch.randn_like(buffer), alpha=0.05)
        if name.endswith('running_var'):
            buffer.mul_(torch.rand_like(buffer) + 0.5)


def fork(backbone):
    return fork_backbone(backbone), backbone


def forked(row):
    _, names, backbone = plain_and_names(row)
    return copy.deepcopy(backbone), names


def strict(row):
    """SwinV2 itself drops keys of its own checkpoints, to rebuild them."""
    return row != 'swinv2'


def images(row):
    return torch.rand(3, 3, *side(row), generator=generator())


def generator():
    return torch.Generator().manual_seed(1)


def branch_state(backbone, branch):
    """The state of the plain network that one branch stands for."""
    other = branches.BRANCHES[1 - branches.BRANCHES.index(branch)]
    state = backbone.state_dict()
    return {
        branches.plain_name(k): v for k, v in state.items() if other not in k
    }


def test_a_long_row_has_one_like_it():
    assert {*LONG} | DUPLICATES <= {*ROWS}
    assert DUPLICATES.isdisjoint(LONG)


@every_row
def test_auto_names_the_last_stage(row):
    assert plain_and_names(row)[1] == ROWS[row][1]


@every_row
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_each_branch_is_a_plain_backbone_with_its_own_last_stage(
    row, training
):
    backbone, names = forked(row)
    for name in names:
        perturb(backbone.get_submodule(name).rebalanced)
    plain = copy.deepcopy(plain_and_names(row)[0])
    inputs = images(row)
    states = {name: branch_state(backbone, name) for name in branches.BRANCHES}
    backbone.train(training)
    outputs = branches.split_branches(backbone(inputs), len(inputs))
    expected = {}
    for branch in branches.BRANCHES:
        plain.load_state_dict(states[branch], strict=strict(row))
        plain.train(training)
        expected[branch] = plain(inputs)
        assert type(outputs[branch]) is type(expected[branch])
        torch.testing.assert_close(
            flat(outputs[branch]), flat(expected[branch]), rtol=1e-5, atol=1e-5
        )
    last = [flat(expected[branch])[-1] for branch in branches.BRANCHES]
    assert (last[0] - last[1]).abs().max() > 1e-3


@every_row
def test_both_copies_start_equal_after_the_initialisation(row):
    backbone, names = forked(row)
    backbone.init_weights()
    branches.sync_branches(backbone)
    for name in names:
        uniform, rebalanced = backbone.get_submodule(name).copies
        assert_same_state(uniform.state_dict(), rebalanced.state_dict())


@every_row
def test_plain_checkpoint_loads_into_both_copies(row, tmp_path):
    plain = plain_and_names(row)[0]
    state = plain.state_dict()
    path = str(tmp_path / 'plain.pth')
    prefixed = {f'backbone.{k}': v for k, v in state.items()}
    torch.save(dict(state_dict=prefixed), path)

    by_init_cfg = scrambled(row)
    by_init_cfg.init_cfg = dict(
        type='Pretrained', checkpoint=path, prefix='backbone.'
    )
    by_init_cfg.init_weights()
    branches.sync_branches(by_init_cfg)

    # strict: a key that is missing or left over is an error.
    model = nn.Module()
    model.backbone = scrambled(row)
    load_checkpoint(model, path, strict=strict(row))

    for backbone in (by_init_cfg, model.backbone):
        for branch in branches.BRANCHES:
            assert_same_state(branch_state(backbone, branch), state)


@every_row
def test_gradients_of_one_copy_never_reach_the_other(row):
    backbone, names = forked(row)
    backbone.train()
    for branch in branches.BRANCHES:
        backbone.zero_grad()
        outputs = branches.split_branches(backbone(images(row)))
        weights = [
            torch.rand(f.shape, generator=generator())
            for f in flat(outputs[branch])
        ]
        pairs = zip(flat(outputs[branch]), weights, strict=True)
        sum((f * w).sum() for f, w in pairs).backward()
        touched = {
            name
            for name, parameter in backbone.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        other = branches.BRANCHES[1 - branches.BRANCHES.index(branch)]
        assert not [name for name in touched if f'.{other}.' in name]
        for name in names:
            assert [n for n in touched if n.startswith(f'{name}.{branch}.')]
        assert [n for n in touched if branches.plain_name(n) == n], 'the trunk'


@pytest.mark.parametrize(
    'row', ['resnet', 'convnext', 'swin', 'vit', 'vit-avg', 'deit']
)
def test_layer_depth_is_that_of_the_plain_name(row):
    plain = plain_and_names(row)[0]
    backbone, _ = forked(row)
    if row == 'resnet':  # whose layer depths know ResNet-50 and deeper
        plain = MODELS.build(dict(type='ResNet', depth=50, **SMALL))
        backbone = copy.deepcopy(plain)
        fork_backbone(backbone)
    depths = {
        branches.plain_name(name): backbone.get_layer_depth(
            branches.plain_name(f'backbone.{name}'), 'backbone.'
        )
        for name, _ in backbone.named_parameters()
    }
    assert depths == {
        name: plain.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in plain.named_parameters()
    }


def test_plain_tables_of_another_size_are_resized_in_both_copies(monkeypatch):
    def resize(_, size, table, heads):
        maps = table.t().unflatten(1, (1, -1))
        return interpolate(maps, size**2).flatten(1).t()

    # MMPretrain's own needs a SciPy that is older than 1.14.
    monkeypatch.setattr(
        swin_transformer, 'resize_relative_position_bias_table', resize
    )

    def swin(window):
        config = dict(ROWS['swin'][0], window_size=window)
        return MODELS.build(config)

    source = swin(4)
    perturb(source)
    state = source.state_dict()
    plain, backbone = swin(2), swin(2)
    fork_backbone(backbone)
    load_state_dict(plain, state)
    load_state_dict(backbone, state)
    for branch in branches.BRANCHES:
        assert_same_state(branch_state(backbone, branch), plain.state_dict())


def test_repvgg_forks_before_and_after_the_switch_to_deploy():
    backbone, _ = forked('repvgg')
    backbone.eval()
    inputs = images('repvgg')
    expected = backbone(inputs)[0]
    backbone.switch_to_deploy()
    torch.testing.assert_close(
        backbone(inputs)[0], expected, rtol=1e-3, atol=1e-4
    )
    deployed = copy.deepcopy(plain_and_names('repvgg')[0])
    deployed.eval()
    deployed.switch_to_deploy()
    fork_backbone(deployed)
    outputs = branches.split_branches(deployed(inputs), len(inputs))
    torch.testing.assert_close(*[outputs[name] for name in branches.BRANCHES])


def test_vgg_with_its_classifier_forks_that_too():
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='VGG', depth=11, num_classes=3))
    assert auto_fork_points(backbone)[-1] == 'classifier'


@pytest.mark.parametrize(
    ('depth', 'blocks'), [(5, 1), (6, 1), (12, 2), (24, 4), (32, 5)]
)
def test_a_sixth_of_a_transformer_is_its_last_stage(depth, blocks):
    arch = dict(VIT['arch'], num_layers=depth)
    backbone = MODELS.build(
        dict(type='VisionTransformer', **(VIT | {'arch': arch}))
    )
    names = fork_backbone(backbone)
    assert names == [
        *(f'layers.{i}' for i in range(depth - blocks, depth)),
        'ln1',
    ]


@pytest.mark.parametrize('row', ['resnet', 'swinv2', 'vit'])
def test_output_before_the_last_stage_is_an_error(row):
    backbone = MODELS.build(dict(ROWS[row][0], out_indices=(1,)))
    with pytest.raises(
        ValueError, match=r'no output of .*out_indices=\(1,\) leaves.*; add'
    ):
        fork_backbone(backbone)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='LeNet5'), "finds no last stage .*be .'features.6'"),
        (
            dict(type='LeViT', arch='128s', img_size=64),
            'no random image runs through it: .*Its children are patch_embed',
        ),
    ],
)
def test_backbone_without_a_last_stage_says_so(config, message):
    with pytest.raises(ValueError, match=f'{message}.* Name in fork=dict'):
        fork_backbone(MODELS.build(config))


class NeedsTwins(nn.Module):
    """Reads the number of images ahead of the fork, and uses it behind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.stage = nn.Conv2d(4, 8, 2, 2)

    def forward(self, x):
        count = x.shape[0]
        return (self.stage(self.stem(x)).reshape(count, 8, -1).mean(-1),)


class Residual(nn.Module):
    """A stage that the backbone itself adds to what runs ahead of it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.stage = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.pos_embed3 = nn.Parameter(torch.ones(4, 1, 1))
        self.cls_token = nn.Parameter(torch.ones(4, 1, 1))
        self.uses_gain = False

    def forward(self, x):
        x = self.stem(x)
        x = x + self.stage(x) + self.cls_token + self.pos_embed3
        return (x * self.gain if self.uses_gain else x,)


def test_features_from_ahead_of_the_fork_meet_those_of_both_branches():
    # With one image alone they would fit each other by chance.
    plain = Residual()
    backbone = copy.deepcopy(plain)
    fork_backbone(backbone, ['stage'])
    inputs = torch.rand(3, 3, 8, 8)
    for features in branches.split_branches(backbone(inputs), 3).values():
        torch.testing.assert_close(features, plain(inputs))


def test_weights_of_no_module_behind_the_fork_are_named():
    plain = Residual()
    plain.uses_gain = True
    plain.gain.requires_grad = False
    with pytest.raises(ValueError, match=r"share: \['gain'\]. Fork the"):
        fork_backbone(plain, ['stage'])
    assert not plain.gain.requires_grad
    assert plain.stem.weight.requires_grad


@pytest.mark.parametrize('row', ['tinyvit', 'timm-maxvit', 'timm-swin'])
def test_images_that_are_not_square_fork_at_the_same_stage(row):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    config = dict(copy.deepcopy(ROWS[row][0]), img_size=(64, 128))
    backbone = MODELS.build(config)
    if image_shape(backbone)[1:] != (64, 128):
        assert row == 'timm-maxvit'
        pytest.skip("this timm's MaxViT does not tell the size it takes")
    assert fork_backbone(backbone) == ROWS[row][1]


def test_a_family_whose_rule_finds_no_weights_forks_by_its_structure(
    monkeypatch,
):
    # As timm's VGG with features_only, whose last module is a pooling.
    monkeypatch.setitem(FAMILIES, 'mmpretrain.ResNet', lambda m: ['relu'])
    assert fork_backbone(build('resnet')) == ['layer4']


def test_only_what_a_last_stage_holds_is_suggested():
    with pytest.raises(ValueError, match=r'layer5.* Name in fork=dict'):
        fork_backbone(MODELS.build(dict(type='LeNet5')), 'layer5')


HF_BLOCKS = dict(
    hidden_size=24, num_hidden_layers=6, num_attention_heads=2,
    intermediate_size=48, image_size=28, patch_size=14,
)  # fmt: skip
STAGES = dict(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 2, 1])
#: Names of either transformers 4 or 5.
HUGGING_FACE = {
    'vit': (HF_BLOCKS, [r'(encoder\.layer|layers)\.5', 'layernorm', 'pooler']),
    'dinov2': (HF_BLOCKS, ['encoder.layer.5', 'layernorm']),
    'clip_vision_model': (
        HF_BLOCKS,
        [r'(vision_model\.)?encoder\.layers\.5',
         r'(vision_model\.)?post_layernorm'],
    ),
    'swin': (
        dict(image_size=64, embed_dim=8, depths=[1, 1, 2, 1],
             num_heads=[1, 1, 2, 2], window_size=2),
        ['encoder.layers.3', 'layernorm'],
    ),
    'convnextv2': (STAGES, ['encoder.stages.3', 'layernorm']),
    'resnet': (
        dict(STAGES, embedding_size=8, layer_type='basic'),
        ['encoder.stages.3'],
    ),
}  # fmt: skip


def last_output(backbone, x):
    """A ModelOutput, as the model itself returns it."""
    return backbone.model(x)


@pytest.mark.parametrize('kind', HUGGING_FACE)
def test_the_documented_backbone_of_hugging_face_forks(kind, monkeypatch):
    pytest.importorskip('transformers')
    examples = Path(__file__).parents[2] / 'docs' / 'examples'
    monkeypatch.syspath_prepend(str(examples))
    kinds = importlib.import_module('hf_backbone')
    options, expected = HUGGING_FACE[kind]
    plain = kinds.HFBackbone(model_type=kind, **options)
    raw = type('Raw', (kinds.HFBackbone,), {'forward': last_output})
    for kind in (kinds.HFBackbone, raw):
        backbone = copy.deepcopy(plain)
        backbone.__class__ = kind
        names = fork_backbone(backbone)
        for name, pattern in zip(names, expected, strict=True):
            assert re.fullmatch(rf'model\.{pattern}', name)
        for name in names:
            perturb(backbone.get_submodule(name).rebalanced)
        inputs = torch.rand(3, *image_shape(backbone))
        outputs = branches.split_branches(backbone.eval()(inputs), 3)
        for branch in branches.BRANCHES:
            twin = copy.deepcopy(plain).eval()
            twin.load_state_dict(branch_state(backbone, branch))
            torch.testing.assert_close(
                outputs[branch][0], twin(inputs)[0], rtol=1e-5, atol=1e-5
            )


def test_number_of_images_from_ahead_of_the_fork_runs_the_trunk_once():
    plain = NeedsTwins()
    backbone = copy.deepcopy(plain)
    assert fork_backbone(backbone) == ['stage']
    seen = []
    backbone.stem.register_forward_hook(
        lambda _, given, output: seen.append(given[0].shape[0])
    )
    perturb(backbone.stage.rebalanced)
    inputs = torch.rand(3, 3, 32, 32)
    outputs = branches.split_branches(copy.deepcopy(backbone)(inputs), 3)
    torch.testing.assert_close(outputs['uniform'], plain(inputs))
    plain.stage.load_state_dict(backbone.stage.rebalanced.state_dict())
    torch.testing.assert_close(outputs['rebalanced'], plain(inputs))
    backbone(inputs)
    assert {*seen} == {3}
