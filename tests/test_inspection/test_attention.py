import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from ltml_mm.inspection.attention import Attention, to_places

pytest.importorskip('pytorch_grad_cam', reason='needs grad-cam')


def build(backbone=None):
    """A two-branch network, or the stock one."""
    model = dict(
        type='CollaborativeTwoBranchClassifier',
        backbone=backbone,
        num_classes=4,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model if backbone else STOCK).eval()


RESNET = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
STOCK = dict(
    type='ImageClassifier',
    backbone=dict(RESNET),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=64),
)
VIT = dict(
    type='VisionTransformer',
    arch=dict(
        embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64
    ),
    img_size=64,
    patch_size=16,
)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    img_size=64,
    pad_small_map=True,
)


@pytest.mark.parametrize(
    ('backbone', 'layer'),
    [
        (RESNET, 'layer4.{}.1'),
        (dict(type='ConvNeXt', arch='atto'), 'stages.3.{}'),
        # Behind it, only the class token is read.
        (VIT, 'layers.2.{}.ln1'),
        (SWIN, 'norm3.{}'),
        (dict(type='MobileNetV2', widen_factor=0.25), 'conv2.{}.activate'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
@pytest.mark.parametrize('branch', ['uniform', 'rebalanced'])
def test_the_layer_is_the_last_with_places(backbone, layer, branch):
    network = build(dict(backbone))
    images = torch.rand(2, 3, 64, 64)
    look = Attention(network, images, branch)
    assert look.layer == f'backbone.{layer.format(branch)}'
    maps = look(images, [0, 3])
    assert [m.shape for m in maps] == [(14, 14)] * 2
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps)


@pytest.mark.parametrize('branch', ['', 'uniform', 'rebalanced'])
def test_maps_by_hand(branch):
    """Against the formula, on features and gradients of one's own."""
    network = build(RESNET if branch else None)
    images = torch.rand(3, 3, 96, 64)
    classes = [2, 0, 1]
    maps = Attention(network, images, branch)(images, classes)
    head = network.heads[branch] if branch else network.head
    backbone = network.backbone
    with torch.no_grad():
        feats = backbone(images)[0]
    if branch:
        feats = feats.chunk(2)[branch == 'rebalanced']
    # A mean and a linear layer: the gradient is the weight, everywhere.
    weights = head.fc.weight[classes].detach() / feats[0, 0].numel()
    expected = torch.einsum('nc,nchw->nhw', weights, feats).relu().numpy()
    for found, grid in zip(maps, expected, strict=True):
        assert found.shape == (14, 9)
        if grid.max() > 0:
            grid = (grid - grid.min()) / (np.ptp(grid) + 1e-7)
            large = cv2.resize(grid, (64, 96))
            small = cv2.resize(large, (9, 14), interpolation=cv2.INTER_AREA)
            np.testing.assert_allclose(found, small / small.max(), atol=1e-3)
    assert any(grid.max() > 0 for grid in expected)


def test_hooks_and_classes_leave_no_trace():
    network = build(RESNET)
    images = torch.rand(2, 3, 64, 64)
    before = network(images)
    Attention(network, images, 'uniform')(images, [1, 1])
    torch.testing.assert_close(network(images), before)
    assert not any(m._forward_hooks for m in network.backbone.modules())


def test_places_of_every_layout():
    grid = torch.arange(2 * 5 * 6 * 4.0).view(2, 5, 6, 4)  # 6 high, 4 wide
    tokens = grid.flatten(2).transpose(1, 2)
    prefixed = torch.cat([torch.zeros(2, 1, 5), tokens], 1)
    channels_last = grid.permute(0, 2, 3, 1)
    for layout in (grid, tokens, prefixed, channels_last):
        torch.testing.assert_close(to_places(layout, 96 / 64), grid)
    assert to_places(torch.zeros(2, 5, 1, 1), 1.5) is None
    assert to_places(torch.zeros(2, 5), 1.5) is None
    # The weights between tokens are no places of the image.
    assert to_places(torch.zeros(1, 2, 25, 25), 1.5) is None


def test_a_network_without_places_is_refused():
    network = build()
    with pytest.raises(ValueError, match='no layer with places'):
        Attention(network, torch.rand(1, 3, 2, 2))
