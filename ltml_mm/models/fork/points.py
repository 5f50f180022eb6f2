"""Where each known backbone forks: the table behind ``fork_at='auto'``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmpretrain.models import backbones
from torch import nn

# The share of a plain transformer's blocks that counts as its last stage.
VIT_SHARE = 6


def auto_fork_points(backbone: nn.Module) -> list[str]:
    """Names the modules of a known backbone's last stage.

    The last stage is what works at the last resolution, the final norms
    included; of a plain transformer the last sixth of the blocks.

    Args:
        backbone: A built backbone.

    Returns:
        list[str]: Names of sub-modules, in the order of ``forward``.

    Raises:
        ValueError: The table has no row for the backbone, or its output does
            not come from its last stage.
    """
    for cls in type(backbone).__mro__:
        if cls in ROWS:
            return ROWS[cls](backbone)
    raise ValueError(
        f"fork_at='auto' has no row for {type(backbone).__name__}. "
        + describe_children(backbone)
    )


def describe_children(backbone: nn.Module, prefix: str = '') -> str:
    """Lists a backbone's children and shows how to write ``fork_at``.

    Args:
        backbone: A backbone, or the part of it that has the children.
        prefix: What stands before their names.

    Returns:
        str: Whole sentences for an error message.
    """
    lines, weighty = [], []
    for child_name, child in backbone.named_children():
        name = label = prefix + child_name
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child):
            label = f'{name}.0 ... {name}.{len(child) - 1}'
        lines.append(f'{label} ({type(child).__name__})')
        if has_weights(child):
            weighty.append(_last_leaf(name, child))
    example = ', '.join(repr(name) for name in weighty[-2:])
    return (
        f'Its children are {", ".join(lines) or "none"}. Write '
        f'fork_at=[{example}], or whichever is the first module of the last '
        'stage and every module with weights that forward runs after it, in '
        'that order'
    )


def has_weights(module: nn.Module) -> bool:
    """Whether a module holds a parameter or a buffer."""
    return any(True for _ in module.parameters()) or any(
        True for _ in module.buffers()
    )


def _last_leaf(name: str, child: nn.Module) -> str:
    if isinstance(child, nn.ModuleList) and len(child):
        return f'{name}.{len(child) - 1}'
    return name


def _resnet(backbone: Any) -> list[str]:
    _check_output(backbone, len(backbone.res_layers) - 1)
    return backbone.res_layers[-1:]


def _vgg(backbone: Any) -> list[str]:
    if backbone.num_classes <= 0:  # else the class scores come last
        _check_output(backbone, len(backbone.stage_blocks) - 1)
    features = backbone.module_name
    names = [f'{features}.{i}' for i in range(*backbone.range_sub_modules[-1])]
    return _with_weights(backbone, [*names, 'classifier'])


def _densenet(backbone: Any) -> list[str]:
    last = backbone.num_stages - 1
    _check_output(backbone, last)
    return [f'stages.{last}', f'transitions.{last}']


def _mobilenet(backbone: Any) -> list[str]:
    _check_output(backbone, len(backbone.layers) - 1)
    return _last_resolution(backbone, backbone.layers)


def _efficientnet(backbone: Any) -> list[str]:
    count = len(backbone.layers)
    _check_output(backbone, count - 1)
    return _last_resolution(backbone, [f'layers.{i}' for i in range(count)])


def _shufflenet_v2(backbone: Any) -> list[str]:
    last = len(backbone.layers) - 1
    _check_output(backbone, last)
    return [f'layers.{last - 1}', f'layers.{last}']


def _convnext(backbone: Any) -> list[str]:
    last = backbone.num_stages - 1
    _check_output(backbone, last)
    return [f'downsample_layers.{last}', f'stages.{last}', f'norm{last}']


def _swin(backbone: Any) -> list[str]:
    last = backbone.num_layers - 1
    _check_output(backbone, last)
    return _with_weights(backbone, [f'stages.{last}', f'norm{last}'])


def _vit(backbone: Any) -> list[str]:
    _check_output(backbone, len(backbone.layers) - 1)
    blocks = _last_blocks('layers', len(backbone.layers))
    return _with_weights(backbone, [*blocks, 'ln1', 'ln2'])


def _poolformer(backbone: Any) -> list[str]:
    last = len(backbone.network) - 1
    _check_output(backbone, last)
    return [f'network.{last - 1}', f'network.{last}', f'norm{last}']


def _repvgg(backbone: Any) -> list[str]:
    _check_output(backbone, len(backbone.stages) - 1)
    return _with_weights(backbone, [backbone.stages[-1], 'ppf'])


def _hrnet(_: Any) -> list[str]:
    return ['stage4']


def _timm(backbone: Any) -> list[str]:
    model = backbone.timm_model
    for cls in type(model).__mro__:
        row = TIMM_ROWS.get(cls.__name__)
        if row is not None and cls.__module__.startswith('timm.'):
            names = _with_weights(model, row(model))
            return [f'timm_model.{name}' for name in names]
    raise ValueError(
        f"fork_at='auto' has no row for timm's {type(model).__name__}. "
        + describe_children(model, 'timm_model.')
    )


def _timm_convnext(model: Any) -> list[str]:
    stage = f'stages.{len(model.stages) - 1}'
    return [stage, 'norm_pre', 'head.norm', 'head.pre_logits']


def _timm_vit(model: Any) -> list[str]:
    blocks = _last_blocks('blocks', len(model.blocks))
    return [*blocks, 'norm', 'attn_pool', 'fc_norm']


def _timm_features(model: Any) -> list[str]:
    # With features_only: a flat dict of modules that ends at the last one
    # whose output is asked for.
    return list(model)[-1:]


def _last_blocks(name: str, depth: int) -> list[str]:
    first = depth - max(1, depth // VIT_SHARE)
    return [f'{name}.{i}' for i in range(first, depth)]


def _last_resolution(backbone: Any, names: Sequence[str]) -> list[str]:
    strided = [
        index
        for index, name in enumerate(names)
        for layer in backbone.get_submodule(name).modules()
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1
    ]
    return list(names[max(strided, default=0) :])


def _with_weights(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Keeps those names whose modules exist and hold weights."""
    known = dict(module.named_modules())
    return [n for n in names if n in known and has_weights(known[n])]


def _check_output(backbone: Any, last: int) -> None:
    indices: Sequence[int] = backbone.out_indices
    if last not in indices:
        raise ValueError(
            f"fork_at='auto' forks the last stage of "
            f'{type(backbone).__name__}, whose output is number {last}, but '
            f'out_indices={tuple(indices)} leaves it out: add {last} or '
            'name the modules to fork in fork_at'
        )


Row = Callable[[Any], list[str]]

# A class that is not listed takes the row of the nearest class it extends:
# ResNeXt, SEResNet, SEResNeXt, ResNetV1c, ResNetV1d, ResNeSt, Res2Net, RegNet
# and ResNet_CIFAR that of ResNet, the DeiT models that of VisionTransformer.
ROWS: dict[type, Row] = {
    backbones.ResNet: _resnet,
    backbones.VGG: _vgg,
    backbones.DenseNet: _densenet,
    backbones.MobileNetV2: _mobilenet,
    backbones.MobileNetV3: _mobilenet,
    backbones.ShuffleNetV2: _shufflenet_v2,
    backbones.EfficientNet: _efficientnet,
    backbones.ConvNeXt: _convnext,
    backbones.SwinTransformer: _swin,
    backbones.SwinTransformerV2: _swin,
    backbones.VisionTransformer: _vit,
    backbones.PoolFormer: _poolformer,
    backbones.RepVGG: _repvgg,
    backbones.HRNet: _hrnet,
    backbones.TIMMBackbone: _timm,
}

# By name, because timm is no dependency.
TIMM_ROWS: dict[str, Row] = {
    'ResNet': lambda model: ['layer4'],
    'ConvNeXt': _timm_convnext,
    'VisionTransformer': _timm_vit,
    'FeatureListNet': _timm_features,
}
