"""The fork: two copies of a backbone's last stage behind one trunk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from mmpretrain.models import backbones
from torch import nn

from ltml_mm.models.fork.branches import (
    Branches,
    FirstModule,
    Fork,
    ForkedTail,
    batch_sizes,
)
from ltml_mm.models.fork.norms import separate_stream_norms
from ltml_mm.models.fork.suggestion import VIT_SHARE, describe_children
from ltml_mm.models.parts import run_blank_image


def fork_backbone(
    backbone: nn.Module,
    at: str | Sequence[str] = 'auto',
    init: str = 'copy',
    bn_streams: str = 'joint',
) -> list[str]:
    """Replaces a backbone's last modules by two copies, in place.

    The backbone's own ``forward`` runs unchanged and returns features of
    twice the batch; :func:`split_branches` takes them apart. Call
    :func:`sync_branches` once the weights are initialised.

    Args:
        backbone: A built backbone.
        at: The names of the modules from the branching point on, the first
            one that ``forward`` runs ahead of the others, or ``'auto'`` for
            the built-in table.
        init: How the re-balanced copy starts, ``'copy'`` or ``'reinit'``;
            see :class:`Branches`.
        bn_streams: ``'joint'``: batch norms see both streams of a step
            together. ``'separate'``: see :func:`separate_stream_norms`.

    Returns:
        list[str]: The names of the forked modules.

    Raises:
        ValueError: Names that do not fit, no row in the table, or modules
            with weights behind the fork that ``at`` does not name.
    """
    if at == 'auto':
        names = auto_fork_points(backbone)
    else:
        names = [at] if isinstance(at, str) else list(at)
    _check_names(backbone, names)
    first = FirstModule(names[0])
    # One memo: what the modules share, and the backbone, stays shared.
    memo: dict[int, Any] = {id(backbone): backbone}
    for name in names:
        module = backbone.get_submodule(name)
        twin = copy.deepcopy(module, memo)
        if init == 'reinit':
            twin.apply(_reset)
        kind = Fork if name == names[0] else ForkedTail
        branches = kind(module, twin, init)
        branches.first = first
        parent, _, leaf = name.rpartition('.')
        backbone.get_submodule(parent).add_module(leaf, branches)
    # Ahead of the backbone's own hooks, which look for keys by their name in
    # the model, such as position tables that have to be resized.
    handle = backbone._register_load_state_dict_pre_hook(
        _spread_all, with_module=True
    )
    hooks: Any = backbone._load_state_dict_pre_hooks
    hooks.move_to_end(handle.id, last=False)
    if bn_streams == 'separate':
        separate_stream_norms(backbone)
    if at != 'auto':  # the table is complete
        _check_nothing_shared(backbone, names, first)
    return names


def fork_neck(neck: nn.Module | None, init: str) -> nn.Module | None:
    """Copies a neck for each branch where it has parameters."""
    if neck is None or not any(True for _ in neck.parameters()):
        return neck
    return ForkedTail(neck, copy.deepcopy(neck), init)


def auto_fork_points(backbone: Any) -> list[str]:
    """Names the modules of a known backbone's last stage, in their order.

    The last stage is what works at the last resolution, the final norms
    included; of a plain transformer the last sixth of the blocks.

    Raises:
        ValueError: The table has no row for the backbone, or its output does
            not come from its last stage.
    """
    for cls in type(backbone).__mro__:
        if cls is backbones.TIMMBackbone:
            return _timm_points(backbone)
        if cls in ROWS:
            last, names = ROWS[cls](backbone)
            if last is not None and last not in backbone.out_indices:
                raise ValueError(
                    f"fork.at='auto' forks the last stage of {cls.__name__}, "
                    f'whose output is number {last}, but out_indices='
                    f'{tuple(backbone.out_indices)} leaves it out: add '
                    f'{last} or name the modules to fork in fork.at'
                )
            return _with_weights(backbone, names)
    raise ValueError(
        f"fork.at='auto' has no row for {type(backbone).__name__}. "
        + describe_children(backbone)
    )


def _timm_points(backbone: Any) -> list[str]:
    model = backbone.timm_model
    for cls in type(model).__mro__:
        row = TIMM_ROWS.get(cls.__name__)
        if row is not None and cls.__module__.startswith('timm.'):
            names = _with_weights(model, row(model))
            return [f'timm_model.{name}' for name in names]
    raise ValueError(
        f"fork.at='auto' has no row for timm's {type(model).__name__}. "
        + describe_children(backbone)
    )


def _with_weights(module: nn.Module, names: list[str]) -> list[str]:
    known = dict(module.named_modules())
    return [n for n in names if n in known and known[n].state_dict()]


def _check_names(backbone: nn.Module, names: list[str]) -> None:
    if not names:
        raise ValueError(f'fork.at is empty. {describe_children(backbone)}')
    known = dict(backbone.named_modules())
    for name in names:
        if not name or name not in known:
            raise ValueError(
                f'fork.at names {name!r}, which {type(backbone).__name__} '
                f'does not have. {describe_children(backbone)}'
            )
        parts = name.split('.')
        path = ['.'.join(parts[: i + 1]) for i in range(len(parts))]
        if any(isinstance(known[part], Branches) for part in path):
            raise ValueError(f'fork.at names {name!r}, which is forked')
        if names.count(name) > 1:
            raise ValueError(f'fork.at names {name!r} twice')
        for outer in names:
            if outer in path[:-1]:
                raise ValueError(
                    f'fork.at names {name!r}, which is inside {outer!r}: '
                    'name only one of them'
                )


def _check_nothing_shared(
    backbone: nn.Module, names: list[str], first: FirstModule
) -> None:
    """Refuses weights behind the fork that both branches would share."""
    shared: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, inputs: Any) -> None:
            # Of one image, only the joined features have an even batch.
            batch = batch_sizes(inputs)[:1]
            inside = any(name.startswith(f'{outer}.') for outer in shared)
            if first.has_run and batch and batch[0] % 2 == 0 and not inside:
                shared.append(name)

        return hook

    forked = tuple(f'{name}.' for name in names)
    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in [*backbone.named_modules()][1:]
        if any(True for _ in module.parameters())
        and not f'{name}.'.startswith(forked)
        and not any(own.startswith(f'{name}.') for own in forked)
    ]
    try:
        run_blank_image(backbone)
    except (RuntimeError, AssertionError):
        pass  # The plain backbone does not run on one either, or not so.
    finally:
        for handle in handles:
            handle.remove()
    if shared:
        raise ValueError(
            f'fork.at={names} leaves modules with weights behind the fork '
            f'that both branches would share: add {[*dict.fromkeys(shared)]}'
        )


def _reset(module: nn.Module) -> None:
    reset = getattr(module, 'reset_parameters', None)
    if callable(reset):
        reset()


def _spread_all(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    for name, branches in module.named_modules():
        if isinstance(branches, Branches):
            branches.spread(state_dict, f'{prefix}{name}.')


def _numbered(last: int, *names: str) -> tuple[int, list[str]]:
    return last, [name.format(last) for name in names]


def _last_blocks(name: str, blocks: Sequence[Any]) -> list[str]:
    count = max(1, len(blocks) // VIT_SHARE)
    return [f'{name}.{i}' for i in range(len(blocks) - count, len(blocks))]


def _last_resolution(
    backbone: Any, names: Sequence[str]
) -> tuple[int, list[str]]:
    strided = [
        index
        for index, name in enumerate(names)
        for layer in backbone.get_submodule(name).modules()
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1
    ]
    return len(names) - 1, list(names[max(strided, default=0) :])


def _vgg(backbone: Any) -> tuple[int | None, list[str]]:
    layers = range(*backbone.range_sub_modules[-1])
    names = [f'{backbone.module_name}.{i}' for i in layers]
    # Class scores, where it gives them, come last whatever out_indices says.
    last = None if backbone.num_classes > 0 else len(backbone.stage_blocks) - 1
    return last, [*names, 'classifier']


# The number of the output that has to be among out_indices, None for any,
# and the names. A class that is not listed takes the row of the nearest class
# it extends: ResNeXt, SEResNet, SEResNeXt, ResNetV1c, ResNetV1d, ResNeSt,
# Res2Net, RegNet and ResNet_CIFAR that of ResNet, the DeiT models that of
# VisionTransformer.
ROWS: dict[type, Callable[[Any], tuple[int | None, list[str]]]] = {
    backbones.ResNet: lambda b: (len(b.res_layers) - 1, b.res_layers[-1:]),
    backbones.VGG: _vgg,
    backbones.DenseNet: lambda b: _numbered(
        b.num_stages - 1, 'stages.{}', 'transitions.{}'
    ),
    backbones.MobileNetV2: lambda b: _last_resolution(b, b.layers),
    backbones.MobileNetV3: lambda b: _last_resolution(b, b.layers),
    backbones.EfficientNet: lambda b: _last_resolution(
        b, [f'layers.{i}' for i in range(len(b.layers))]
    ),
    backbones.ShuffleNetV2: lambda b: _numbered(
        len(b.layers) - 1, f'layers.{len(b.layers) - 2}', 'layers.{}'
    ),
    backbones.ConvNeXt: lambda b: _numbered(
        b.num_stages - 1, 'downsample_layers.{}', 'stages.{}', 'norm{}'
    ),
    backbones.SwinTransformer: lambda b: _numbered(
        b.num_layers - 1, 'stages.{}', 'norm{}'
    ),
    backbones.SwinTransformerV2: lambda b: _numbered(
        b.num_layers - 1, 'stages.{}', 'norm{}'
    ),
    backbones.VisionTransformer: lambda b: (
        len(b.layers) - 1,
        [*_last_blocks('layers', b.layers), 'ln1', 'ln2'],
    ),
    backbones.PoolFormer: lambda b: _numbered(
        len(b.network) - 1,
        f'network.{len(b.network) - 2}',
        'network.{}',
        'norm{}',
    ),
    backbones.RepVGG: lambda b: (len(b.stages) - 1, [b.stages[-1], 'ppf']),
    backbones.HRNet: lambda b: (None, ['stage4']),
}

# By name, because timm is no dependency.
TIMM_ROWS: dict[str, Callable[[Any], list[str]]] = {
    'ResNet': lambda m: ['layer4'],
    'ConvNeXt': lambda m: [
        f'stages.{len(m.stages) - 1}',
        'norm_pre',
        'head.norm',
        'head.pre_logits',
    ],
    'VisionTransformer': lambda m: [
        *_last_blocks('blocks', m.blocks),
        'norm',
        'attn_pool',
        'fc_norm',
    ],
    # With features_only: a flat dict of modules that ends at the last one
    # whose output is asked for.
    'FeatureListNet': lambda m: list(m)[-1:],
}
