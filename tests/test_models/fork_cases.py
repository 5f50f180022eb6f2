"""Small backbones and comparisons that the tests of the fork share."""

import torch
from mmpretrain.models import backbones

from ltml_mm.models.fork.backbone import fork_backbone
from ltml_mm.models.fork.branches import sync_branches


def resnet(**kwargs):
    return backbones.ResNet(18, stem_channels=8, base_channels=8, **kwargs)


def swin(**kwargs):
    arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    return backbones.SwinTransformer(
        arch, img_size=64, window_size=2, drop_path_rate=0.0, **kwargs
    )


def vit(**kwargs):
    arch = dict(
        embed_dims=8, num_layers=3, num_heads=1, feedforward_channels=16
    )
    return backbones.VisionTransformer(
        arch, img_size=16, patch_size=8, **kwargs
    )


def forked(backbone, *args, **kwargs):
    fork_backbone(backbone, *args, **kwargs)
    return backbone


def images(size=4, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, side, side, generator=generator)


def initialised(backbone):
    backbone.init_weights()
    sync_branches(backbone)
    return backbone


@torch.no_grad()
def scramble(module, seed=0):
    """Weights that neither a zero nor a one hides."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise, alpha=0.1)
    return module


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def is_equal(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def flat(features):
    if isinstance(features, torch.Tensor):
        return [features]
    return [tensor for item in features for tensor in flat(item)]


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key
