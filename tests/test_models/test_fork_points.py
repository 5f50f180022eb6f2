"""Every row of the `fork_at='auto'` table, against the plain backbone."""

import copy
import functools

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models.backbones import swin_transformer
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn.functional import interpolate

from ltml_mm.models.fork import (
    BRANCHES,
    fork_backbone,
    plain_name,
    split_branches,
    sync_branches,
)
from ltml_mm.models.fork_points import auto_fork_points

# The smallest nets that the constructors allow; depth 50 where the family
# has none with fewer blocks.
SMALL = dict(stem_channels=8, base_channels=8)
VIT = dict(
    img_size=32,
    patch_size=8,
    arch=dict(
        embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32
    ),
)
VIT_BLOCKS = ['layers.10', 'layers.11']
SWIN = dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
REGNET = dict(w0=24, wa=36, wm=2.0, group_w=8, depth=5, bot_mul=1.0)
HRNET = {
    f'stage{i + 1}': dict(
        num_modules=1,
        num_branches=i + 1,
        block='BASIC' if i else 'BOTTLENECK',
        num_blocks=(1,) * (i + 1),
        num_channels=tuple(4 * 2**j for j in range(i + 1)),
    )
    for i in range(4)
}
TIMM_VIT = dict(
    type='TIMMBackbone',
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    embed_dim=24,
    depth=6,
    num_heads=2,
)
TIMM_RESNET = dict(
    type='TIMMBackbone',
    model_name='resnet18',
    layers=(1, 1, 1, 1),
    channels=(8, 16, 24, 32),
)
TIMM_CONVNEXT = dict(
    type='TIMMBackbone',
    model_name='convnext_atto',
    depths=(1, 1, 1, 1),
    dims=(8, 8, 16, 16),
    drop_path_rate=0.0,
)

ROWS = {
    'resnet': (dict(type='ResNet', depth=18, **SMALL), ['layer4']),
    'resnet-three-stages': (
        dict(
            type='ResNet', depth=18, num_stages=3, out_indices=(2,),
            strides=(1, 2, 2), dilations=(1, 1, 1), **SMALL,
        ),
        ['layer3'],
    ),
    'resnet-with-cp': (
        dict(type='ResNet', depth=18, with_cp=True, **SMALL), ['layer4'],
    ),
    'resnet-all-outputs': (
        dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3), **SMALL),
        ['layer4'],
    ),
    'resnet-cifar': (
        dict(type='ResNet_CIFAR', depth=18, **SMALL), ['layer4'],
    ),
    'resnetv1c': (dict(type='ResNetV1c', depth=18, **SMALL), ['layer4']),
    'resnetv1d': (dict(type='ResNetV1d', depth=18, **SMALL), ['layer4']),
    'resnext': (
        dict(type='ResNeXt', depth=50, groups=4, width_per_group=4, **SMALL),
        ['layer4'],
    ),
    'seresnet': (dict(type='SEResNet', depth=50, **SMALL), ['layer4']),
    'seresnext': (
        dict(type='SEResNeXt', depth=50, groups=4, width_per_group=4, **SMALL),
        ['layer4'],
    ),
    'resnest': (dict(type='ResNeSt', depth=50, **SMALL), ['layer4']),
    'res2net': (
        dict(type='Res2Net', depth=50, base_width=8, **SMALL), ['layer4'],
    ),
    'regnet': (dict(type='RegNet', arch=REGNET), ['layer4']),
    'vgg': (dict(type='VGG', depth=11), ['features.10', 'features.11']),
    'vgg-bn': (
        dict(type='VGG', depth=11, norm_cfg=dict(type='BN')),
        ['features.10', 'features.11'],
    ),
    'densenet': (
        dict(
            type='DenseNet',
            arch=dict(growth_rate=8, depths=[1, 1, 2, 2], init_channels=8),
        ),
        ['stages.3', 'transitions.3'],
    ),
    'mobilenetv2': (
        dict(type='MobileNetV2', widen_factor=0.25),
        ['layer6', 'layer7', 'conv2'],
    ),
    'mobilenetv3-small': (
        dict(type='MobileNetV3', arch='small'),
        ['layer9', 'layer10', 'layer11', 'layer12'],
    ),
    'mobilenetv3-large': (
        dict(type='MobileNetV3', arch='large'),
        ['layer13', 'layer14', 'layer15', 'layer16'],
    ),
    'shufflenetv2': (
        dict(type='ShuffleNetV2', widen_factor=0.5),
        ['layers.2', 'layers.3'],
    ),
    'efficientnet': (
        dict(type='EfficientNet', arch='b0'), ['layers.5', 'layers.6'],
    ),
    'convnext': (
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]),
        ),
        ['downsample_layers.3', 'stages.3', 'norm3'],
    ),
    'convnext-maps': (
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]),
            gap_before_final_norm=False,
            out_indices=[2, 3],
        ),
        ['downsample_layers.3', 'stages.3', 'norm3'],
    ),
    'swin': (
        dict(
            type='SwinTransformer', arch=SWIN, img_size=64, window_size=2,
            drop_path_rate=0.0,
        ),
        ['stages.3', 'norm3'],
    ),
    'swinv2': (
        dict(
            type='SwinTransformerV2',
            arch=dict(extra_norm_every_n_blocks=0, **SWIN),
            img_size=64, window_size=2, drop_path_rate=0.0,
        ),
        ['stages.3', 'norm3'],
    ),
    'vit': (dict(type='VisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1']),
    'vit-avg': (
        dict(type='VisionTransformer', out_type='avg_featmap', **VIT),
        [*VIT_BLOCKS, 'ln1', 'ln2'],
    ),
    'vit-avg-clip': (
        dict(
            type='VisionTransformer', out_type='avg_featmap', pre_norm=True,
            final_norm=False, with_cls_token=False, **VIT,
        ),
        [*VIT_BLOCKS, 'ln2'],
    ),
    'deit': (
        dict(type='DistilledVisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1'],
    ),
    'deit-avg': (
        dict(
            type='DistilledVisionTransformer', out_type='avg_featmap', **VIT
        ),
        [*VIT_BLOCKS, 'ln1', 'ln2'],
    ),
    'poolformer': (
        dict(
            type='PoolFormer',
            arch=dict(layers=[1, 1, 1, 1], embed_dims=[8, 12, 16, 20]),
        ),
        ['network.5', 'network.6', 'norm6'],
    ),
    'repvgg': (
        dict(type='RepVGG', arch='A0', base_channels=8), ['stage_4'],
    ),
    'repvgg-ppf': (
        dict(
            type='RepVGG', arch='yolox-pai-small', base_channels=8,
            add_ppf=True,
        ),
        ['stage_4', 'ppf'],
    ),
    'hrnet': (dict(type='HRNet', extra=HRNET), ['stage4']),
    'timm-resnet': (
        TIMM_RESNET,
        ['timm_model.layer4'],
    ),
    'timm-resnet-features': (
        dict(features_only=True, **TIMM_RESNET),
        ['timm_model.layer4'],
    ),
    'timm-convnext': (
        TIMM_CONVNEXT, ['timm_model.stages.3', 'timm_model.head.norm'],
    ),
    'timm-convnext-features': (
        dict(features_only=True, **TIMM_CONVNEXT), ['timm_model.stages_3'],
    ),
    'timm-vit': (
        TIMM_VIT, ['timm_model.blocks.5', 'timm_model.norm'],
    ),
    'timm-vit-fc-norm': (
        dict(global_pool='avg', class_token=False, **TIMM_VIT),
        ['timm_model.blocks.5', 'timm_model.fc_norm'],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_log_of_every_parameter():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    yield
    logger.setLevel(level)


every_row = pytest.mark.parametrize('row', ROWS)


@functools.cache
def built(row):
    torch.manual_seed(0)
    # A backbone may change a list of its config in place.
    return MODELS.build(copy.deepcopy(ROWS[row][0]))


def build(row):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    return copy.deepcopy(built(row))


@functools.cache
def plain_and_names(row):
    """A plain backbone with weights that no zero or one hides."""
    plain = build(row)
    perturb(plain)
    names = fork_backbone(copy.deepcopy(plain))
    return plain, names


@torch.no_grad()
def perturb(module):
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    for name, buffer in module.named_buffers():
        if name.endswith('running_mean'):
            buffer.add_(torch.randn_like(buffer), alpha=0.05)
        if name.endswith('running_var'):
            buffer.mul_(torch.rand_like(buffer) + 0.5)


def forked(row):
    backbone = copy.deepcopy(plain_and_names(row)[0])
    return backbone, fork_backbone(backbone)


def strict(row):
    """SwinV2 itself drops keys of its own checkpoints, to rebuild them."""
    return row != 'swinv2'


def images(row):
    side = 32 if 'vgg' in row else ROWS[row][0].get('img_size', 64)
    return torch.rand(3, 3, side, side, generator=generator())


def generator():
    return torch.Generator().manual_seed(1)


def flat(features):
    if isinstance(features, torch.Tensor):
        return [features]
    return [tensor for item in features for tensor in flat(item)]


def branch_state(backbone, branch):
    """The state of the plain network that one branch stands for."""
    other = BRANCHES[1 - BRANCHES.index(branch)]
    state = backbone.state_dict()
    return {plain_name(k): v for k, v in state.items() if other not in k}


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
    states = {name: branch_state(backbone, name) for name in BRANCHES}
    backbone.train(training)
    outputs = split_branches(backbone(inputs), len(inputs))
    expected = {}
    for branch in BRANCHES:
        plain.load_state_dict(states[branch], strict=strict(row))
        plain.train(training)
        expected[branch] = plain(inputs)
        assert type(outputs[branch]) is type(expected[branch])
        torch.testing.assert_close(
            flat(outputs[branch]),
            flat(expected[branch]),
            rtol=1e-5,
            atol=1e-5,
        )
    last = [flat(expected[branch])[-1] for branch in BRANCHES]
    assert (last[0] - last[1]).abs().max() > 1e-3


@every_row
def test_both_copies_start_equal_after_the_initialisation(row):
    backbone = build(row)
    names = fork_backbone(backbone)
    backbone.init_weights()
    sync_branches(backbone)
    for name in names:
        uniform, rebalanced = backbone.get_submodule(name).copies
        assert_same_state(uniform.state_dict(), rebalanced.state_dict())


@every_row
def test_plain_checkpoint_loads_into_both_copies(row, tmp_path):
    plain, _ = plain_and_names(row)
    state = plain.state_dict()
    path = str(tmp_path / 'plain.pth')
    prefixed = {f'backbone.{k}': v for k, v in state.items()}
    torch.save(dict(state_dict=prefixed), path)

    by_init_cfg = build(row)
    by_init_cfg.init_cfg = dict(
        type='Pretrained', checkpoint=path, prefix='backbone.'
    )
    fork_backbone(by_init_cfg)
    by_init_cfg.init_weights()
    sync_branches(by_init_cfg)

    # strict: a key that is missing or left over is an error.
    model = nn.Module()
    model.backbone = build(row)
    fork_backbone(model.backbone)
    load_checkpoint(model, path, strict=strict(row))

    by_torch = build(row)
    fork_backbone(by_torch)
    by_torch.load_state_dict(state, strict=strict(row))

    for backbone in (by_init_cfg, model.backbone, by_torch):
        for branch in BRANCHES:
            assert_same_state(branch_state(backbone, branch), state)


@every_row
def test_gradients_of_one_copy_never_reach_the_other(row):
    backbone, names = forked(row)
    backbone.train()
    for branch in BRANCHES:
        backbone.zero_grad()
        outputs = split_branches(backbone(images(row)))
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
        other = BRANCHES[1 - BRANCHES.index(branch)]
        assert not [name for name in touched if f'.{other}.' in name]
        for name in names:
            assert [n for n in touched if n.startswith(f'{name}.{branch}.')]
        assert [n for n in touched if plain_name(n) == n], 'the trunk'


@pytest.mark.parametrize(
    'row', ['resnet', 'convnext', 'swin', 'vit', 'vit-avg', 'deit']
)
def test_layer_depth_is_that_of_the_plain_name(row):
    plain, _ = plain_and_names(row)
    backbone, _ = forked(row)
    if row == 'resnet':  # whose layer depths know ResNet-50 and deeper
        plain = MODELS.build(dict(type='ResNet', depth=50, **SMALL))
        backbone = copy.deepcopy(plain)
        fork_backbone(backbone)
    depths = {
        plain_name(name): backbone.get_layer_depth(
            plain_name(f'backbone.{name}'), 'backbone.'
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
    for branch in BRANCHES:
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
    outputs = split_branches(deployed(inputs), len(inputs))
    torch.testing.assert_close(*[outputs[name] for name in BRANCHES])


def test_vgg_with_its_classifier_forks_that_too():
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='VGG', depth=11, num_classes=3))
    assert auto_fork_points(backbone)[-1] == 'classifier'


@pytest.mark.parametrize(
    ('depth', 'blocks'), [(1, 1), (5, 1), (6, 1), (12, 2), (24, 4), (32, 5)]
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


def test_output_before_the_last_stage_is_an_error():
    backbone = MODELS.build(
        dict(type='ResNet', depth=18, out_indices=(2,), **SMALL)
    )
    with pytest.raises(ValueError, match=r'out_indices=\(2,\).*add 3'):
        fork_backbone(backbone)


def test_backbone_without_a_row_is_told_what_to_write():
    backbone = MODELS.build(dict(type='MlpMixer', arch='s', img_size=32))
    with pytest.raises(
        ValueError,
        match=r'no row for MlpMixer.*layers\.0 \.\.\. layers\.7 '
        r"\(ModuleList\).*fork_at=\['layers\.7', 'ln1'\]",
    ):
        fork_backbone(backbone)


def test_timm_model_without_a_row_is_told_what_to_write():
    pytest.importorskip('timm')
    backbone = MODELS.build(
        dict(type='TIMMBackbone', model_name='mobilenetv3_small_050')
    )
    with pytest.raises(
        ValueError, match=r"timm's MobileNetV3.*fork_at=\['timm_model\.blocks"
    ):
        fork_backbone(backbone)


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key
