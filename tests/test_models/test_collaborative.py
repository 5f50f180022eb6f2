import copy
import math

import numpy as np
import pytest
import torch
from fork_cases import is_equal
from fork_rows import ROWS
from loss_reference import logit_compensated_bce
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from two_branch_case import BACKBONE, BRANCHES, STATISTICS, K, batch, build

from ltml_mm.models import parts
from ltml_mm.models.streams import fuse_logits


def make_logits_large(model):
    with torch.no_grad():
        for index, head in enumerate(model.heads.values()):
            head.fc.weight.mul_(30)
            head.fc.bias.add_(0.1 * (index + 1))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_step_loss_equals_the_equations():
    model = build().double().eval()
    make_logits_large(model)
    generator = torch.Generator().manual_seed(3)
    compensation = {}
    for name, loss in model.loss_cls.items():
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.add_(
                    0.3 * torch.randn(K, generator=generator).double()
                )
        compensation[name] = [
            getattr(loss, key).detach().numpy()
            for key in ('pos_scale', 'pos_bias', 'neg_scale', 'neg_bias')
        ]
    data = batch(4)
    images = {k: v.double() for k, v in data['inputs'].items()}
    losses = model(images, data['data_samples'], mode='loss')

    # The plain network, once per branch: copies of the last stage in place.
    logits = {}
    for name in BRANCHES:
        plain = copy.deepcopy(model.backbone)
        plain.layer4 = getattr(plain.layer4, name)
        for stream in BRANCHES:
            with torch.no_grad():
                feature = plain(images[stream])[-1].mean((2, 3))
                logits[name, stream] = model.heads[name].fc(feature).numpy()
    expected = {'loss_consistency': 0.0}
    for name, other in zip(BRANCHES, BRANCHES[::-1], strict=True):
        own, crossed = logits[name, name], logits[other, name]
        expected[f'{name}.loss_cls'] = logit_compensated_bce(
            own,
            [
                [float(k in sample.gt_label) for k in range(K)]
                for sample in data['data_samples'][name]
            ],
            STATISTICS,
            compensation[name],
        )
        difference = np.mean((own - crossed) ** 2)
        expected['loss_consistency'] += 0.1 * difference
    assert {key for key in losses if 'loss' in key} == set(expected)
    for key, value in expected.items():
        # Targets are float32 in the model, weights exp() of float32 rho.
        assert losses[key].item() == pytest.approx(value, rel=1e-6), key
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(expected.values()), rel=1e-6)


def test_both_branches_start_from_the_same_last_stage():
    model = build()
    assert is_equal(*model.backbone.layer4.copies)
    assert not is_equal(*model.heads.values())


@pytest.mark.parametrize('fuse', ['logits', 'probs'])
def test_prediction_is_the_average_of_the_branches(fuse):
    model = build(fuse=fuse).eval()
    make_logits_large(model)
    images = batch(3)['inputs']['uniform']
    samples = model(images, mode='predict')
    logits = model.branch_logits(images)
    u, r = (logits[name].detach().numpy() for name in BRANCHES)
    if fuse == 'logits':
        expected = sigmoid((u + r) / 2)
    else:
        expected = (sigmoid(u) + sigmoid(r)) / 2
    found = np.stack([s.pred_score.detach().numpy() for s in samples])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for i, sample in enumerate(samples):
        assert sample.pred_label.tolist() == [
            k for k in range(K) if expected[i, k] >= 0.5
        ]
        np.testing.assert_allclose(
            sample.branch_scores['rebalanced'].detach(),
            sigmoid(r[i]),
            rtol=1e-5,
        )
    fused = model(images, mode='tensor').sigmoid().detach().numpy()
    np.testing.assert_allclose(fused, expected, rtol=1e-5)


@pytest.mark.parametrize('fuse', ['logits', 'probs'])
def test_tta_averages_what_fuse_averages(fuse):
    module = build(fuse=fuse)
    tta = MODELS.build(dict(type='CollaborativeTTA', module=module)).eval()
    make_logits_large(tta.module)
    images = batch(2)['inputs']['uniform']
    views = [images, images.flip(-1)]
    samples = [[DataSample(metainfo={'n': n}) for n in (0, 1)] for _ in views]
    merged = tta.test_step({'inputs': views, 'data_samples': samples})
    logits = np.stack(
        [
            tta.module.branch_logits(view)[name].detach().numpy()
            for view in views
            for name in BRANCHES
        ]
    )
    expected = sigmoid(logits).mean(0)
    if fuse == 'logits':
        expected = sigmoid(logits.mean(0))
    found = [sample.pred_score.detach() for sample in merged]
    np.testing.assert_allclose(np.stack(found), expected, rtol=1e-5)
    assert [sample.n for sample in merged] == [0, 1]


def test_fused_logits_stay_finite_where_both_branches_saturate():
    z = torch.tensor([-200.0, -20.0, -1.0, 0.0, 2.0, 17.0, 40.0, 200.0])
    found = fuse_logits([z, z + 1], 'probs')
    # In float64 exp() reaches that far.
    u, r = z.double(), z.double() + 1
    yes = 1 / (1 + (-u).exp()) + 1 / (1 + (-r).exp())
    no = 1 / (1 + u.exp()) + 1 / (1 + r.exp())
    torch.testing.assert_close(found, (yes.log() - no.log()).float())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_and_averages_see_no_half_precision(dtype):
    """ASL's terms, as means of float16 logits, are infinite at -20."""
    model = build(loss_cls=dict(type='AsymmetricLoss')).eval()
    for head in model.heads.values():
        torch.nn.init.constant_(head.fc.bias, -1e4)
    data = batch()
    with torch.autocast('cpu', dtype=dtype):
        logits = model.branch_logits(data['inputs']['uniform'])
        losses = model(**data, mode='loss')
        (sample, _) = model(data['inputs']['uniform'], mode='predict')
    assert {z.dtype for z in logits.values()} == {torch.float32}
    assert sample.pred_score.dtype == torch.float32
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    for name, parameter in model.heads.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_batch_without_both_streams_is_an_error():
    model, data = build(), batch()
    images = data['inputs']['uniform']
    lines = 'TwoStreamSampler.*TwoStreamDataset.*TwoStreamDataPreprocessor'
    with pytest.raises(ValueError, match=f'(?s){lines}'):
        model(images, data['data_samples']['uniform'], mode='loss')
    inputs = {'uniform': images, 'tail': torch.rand(1)}
    with pytest.raises(ValueError, match='tail'):
        model(inputs, data['data_samples'], mode='loss')


FORK = dict(at=['layer3', 'layer4'], init='reinit', bn_streams='separate')


def test_options_of_the_fork_have_two_spellings():
    ours = build(fork=dict(**FORK, fuse='probs'))
    theirs = build(
        fork_at=['layer3', 'layer4'],
        branch_init='reinit',
        bn_streams='separate',
        fuse='probs',
    )
    assert (ours.fork_at, ours.fuse) == (FORK['at'], 'probs')
    assert repr(ours) == repr(theirs)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=0), 'num_classes'),
        (dict(fuse='both'), "'both'"),
        (dict(branch_init='zero'), "fork.init must be .*'zero'"),
        (dict(fork=dict(bn_streams='none')), 'fork.bn_streams must be'),
        (dict(fork_at=['layer5']), 'layer5'),
        (dict(head=dict(loss=dict(type='FocalLoss'))), 'loss_cls'),
        (
            dict(fork=dict(init='copy'), branch_init='reinit'),
            r"branch_init='reinit' and fork=dict\(init='copy'\) set the same",
        ),
        (dict(branch_int='copy'), "'branch_int'; did you mean branch_init"),
        (dict(frok=dict()), "'frok'; did you mean fork"),
        (dict(fork=dict(inits=1)), "fork has no option 'inits'.*mean init"),
        (dict(fork=dict(zzz=1)), "'zzz'; it has at, init, bn_streams, fuse"),
        (dict(fork=['layer4']), r"fork must be a dict .*\['layer4'\]"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build(**options)


def test_head_and_losses_can_be_replaced():
    model = build(
        head=dict(type='StackedLinearClsHead', mid_channels=[16, 8]),
        loss_cls=dict(type='AsymmetricLoss'),
        loss_consistency=dict(
            type='CrossBranchConsistencyLoss', on='probs', reduction='sum'
        ),
    )
    losses = model(**batch(), mode='loss')
    assert all(torch.isfinite(value) for value in losses.values())
    sizes = [layer.fc.out_features for layer in model.heads['uniform'].layers]
    assert sizes == [16, 8, K]
    assert not list(model.loss_cls.parameters())


def test_parts_without_a_type_keep_the_default_one():
    model = build(
        head=dict(topk=3),
        loss_cls=dict(compensation='none'),
        loss_consistency=dict(loss_weight=0.5),
    )
    default = build()
    for name in ('heads', 'loss_cls', 'loss_consistency'):
        modules = getattr(model, name), getattr(default, name)
        found, expected = ([type(m) for m in ms.modules()] for ms in modules)
        assert found == expected
    assert model.heads['uniform'].topk == 3
    assert not list(model.loss_cls.parameters())
    assert model.loss_consistency.loss_weight == 0.5


def test_losses_of_mmpretrain_are_means_with_and_without_the_wrapper():
    plain = dict(type='CrossEntropyLoss', use_sigmoid=True)
    data = batch()
    for config in (plain, dict(type='ClassMeanLoss', loss=plain)):
        model = build(loss_cls=config)
        # Logits of zero have a cross entropy of log 2 each.
        for parameter in model.heads.parameters():
            torch.nn.init.zeros_(parameter)
        loss = model(**data, mode='loss')['uniform.loss_cls']
        assert loss.item() == pytest.approx(math.log(2), rel=1e-5)


def test_parametric_neck_is_copied_for_each_branch():
    model = build(
        neck=[
            dict(type='LinearNeck', in_channels=64, out_channels=5, gap_dim=2)
        ]
    )
    assert model.heads['uniform'].fc.in_features == 5
    logits = model.branch_logits(batch()['inputs']['uniform'])
    logits['uniform'].sum().backward()
    for name, parameter in model.neck.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert moved == name.startswith('uniform'), name


TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32,
    depth=6,
)  # fmt: skip
VIT = dict(
    type='VisionTransformer', arch='deit-tiny', img_size=32,
    out_type='cls_token',
)  # fmt: skip


@pytest.mark.parametrize(
    ('backbone', 'width'),
    [(ROWS['hrnet'][0], 2048), (TIMM_VIT, 192), (VIT, 192)],
    ids=['hrnet', 'timm-vit', 'vit'],
)
def test_widths_are_found_behind_the_neck(backbone, width):
    model = build(backbone=backbone, neck='auto')
    assert model.heads['uniform'].fc.in_features == width
    losses = model(**batch(), mode='loss')
    sum(losses.values()).backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize('size', [(64, 64), (64, 128)])
def test_features_with_their_channels_last_are_pooled_over_the_map(size):
    pytest.importorskip('timm')
    backbone = dict(copy.deepcopy(ROWS['timm-swin'][0]), img_size=size)
    model = build(backbone=backbone).eval()
    assert model.heads['uniform'].fc.in_features == 64
    images = torch.rand(2, 3, *size)
    maps = model.backbone(images)[-1][:2]
    (pooled,) = model.extract_feat(images)['uniform']
    torch.testing.assert_close(pooled, maps.mean((1, 2)))


@pytest.mark.parametrize(
    ('row', 'options', 'prefix', 'mean'),
    [
        ('vit', dict(out_type='raw'), 1, False),
        ('deit', dict(out_type='raw'), 2, False),
        ('timm-eva02', {}, 1, True),
        ('timm-cait', {}, 1, False),
        ('timm-vit', {}, 1, False),
    ],
)
def test_class_tokens_are_never_averaged_with_the_patches(
    row, options, prefix, mean
):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    config = dict(copy.deepcopy(ROWS[row][0]), **options)
    neck = build(backbone=config).neck
    assert (neck.num_prefix_tokens, neck.mean) == (prefix, mean)
    tokens = torch.rand(2, prefix + 4, 3)
    expected = tokens[:, prefix:].mean(1) if mean else tokens[:, 0]
    torch.testing.assert_close(neck((tokens,)), (expected,))


@pytest.mark.parametrize(
    ('row', 'width'), [('efficientformer', 32), ('mlp-mixer', 512)]
)
def test_features_with_their_channels_first_are_pooled_over_the_map(
    row, width
):
    model = build(backbone=copy.deepcopy(ROWS[row][0])).eval()
    assert model.heads['uniform'].fc.in_features == width
    images = torch.rand(1, *parts.image_shape(model.backbone))
    features = model.backbone(images)[-1][:1]
    (pooled,) = model.extract_feat(images)['uniform']
    torch.testing.assert_close(pooled, features.mean(2))


@pytest.mark.parametrize('row', ['deit', 'conformer'])
def test_several_vectors_of_an_image_are_put_side_by_side(row):
    # As their own heads do, which add what each vector gives.
    conformer = dict(
        type='Conformer',
        arch=dict(embed_dims=16, channel_ratio=1, num_heads=2, depths=12),
        base_channels=8,
    )
    backbone = ROWS[row][0] if row == 'deit' else conformer
    model = build(backbone=copy.deepcopy(backbone)).eval()
    images = torch.rand(2, 3, 32, 32)
    (pair,) = model.backbone(images)
    (found,) = model.extract_feat(images)['rebalanced']
    torch.testing.assert_close(found, torch.cat([v[2:] for v in pair], 1))
    assert model(images).shape == (2, K)


class Tokens(nn.Module):
    """A token ahead of the patches of one size of images alone."""

    def __init__(self):
        super().__init__()
        self.in_chans = 3
        self.pretrained_cfg = dict(min_input_size=(3, 28, 36))
        self.fold = nn.PixelUnshuffle(4)
        self.patch_embed = nn.Conv2d(48, 5, 1)
        self.cls_token = nn.Parameter(torch.rand(1, 1, 5))

    def forward(self, x):
        if x.shape[2:] != (28, 36):
            raise AssertionError
        patches = self.patch_embed(self.fold(x)).flatten(2).transpose(1, 2)
        token = self.cls_token.expand(len(x), -1, -1).to(patches.dtype)
        return torch.cat([token, patches], 1)


def test_tokens_of_an_image_of_another_size_and_channels():
    # 1 + 7 * 9 tokens: a square number, as of patches alone.
    backbone = Tokens()
    neck = parts.neck_config('auto', backbone)
    assert neck == dict(type='TokenPooling', num_prefix_tokens=1)
    head = parts.head_config(None, 3, backbone, MODELS.build(neck))
    assert head['in_channels'] == 5


def test_why_no_blank_image_runs():
    backbone = Tokens()
    backbone.patch_embed.register_forward_hook(lambda *given: given[2].long())
    with pytest.raises(ValueError, match='the last output holds whole num'):
        parts.probe_features(backbone)
    backbone.img_size = 32
    with pytest.raises(ValueError, match=r'32 x 32 .*: AssertionError'):
        parts.probe_features(backbone)


@pytest.mark.parametrize('channels', [1, 4])
def test_images_may_have_another_number_of_channels(channels):
    model = build(
        backbone=dict(BACKBONE, in_channels=channels),
        data_preprocessor=dict(mean=[0] * channels, std=[255] * channels),
    )
    assert model.heads['uniform'].fc.in_features == 64
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, K)


def test_blank_image_has_the_side_that_the_backbone_was_built_for():
    arch = dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4)
    model = build(
        backbone=dict(
            type='SwinTransformerV2',
            arch=dict(arch, extra_norm_every_n_blocks=0),
            img_size=256,
            window_size=8,
        )
    )
    assert model.heads['uniform'].fc.in_features == 64


@pytest.mark.parametrize('row', ['resnet', 'swin', 'vit', 'timm-convnext'])
def test_exported_network_takes_any_number_of_images(row):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    model = build(backbone=copy.deepcopy(ROWS[row][0])).eval()
    side = ROWS[row][0].get('img_size', 64)
    exported = torch.export.export(
        model,
        (torch.rand(3, 3, side, side),),
        dynamic_shapes=({0: torch.export.Dim('batch')},),
    ).module()
    traced = torch.jit.trace(model, torch.rand(2, 3, side, side))
    for size in (5, 1):
        images = torch.rand(size, 3, side, side)
        expected = model(images)
        torch.testing.assert_close(exported(images), expected)
        torch.testing.assert_close(traced(images), expected)


def test_traced_stock_network_with_windows_takes_any_number_of_images():
    plain = MODELS.build(copy.deepcopy(ROWS['swin'][0]))
    plain.train(False)
    images = torch.rand(3, 3, 64, 64)
    (expected,) = plain(images)
    traced = torch.jit.trace(parts.free_batch(plain), images[:1])
    torch.testing.assert_close(plain(images), (expected,), rtol=0, atol=0)
    torch.testing.assert_close(traced(images), (expected,))
