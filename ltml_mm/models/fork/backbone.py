"""The fork: two copies of a backbone's last stage behind one trunk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ltml_mm.models.fork.branches import (
    Branches,
    FirstModule,
    Fork,
    ForkedTail,
    batch_sizes,
)
from ltml_mm.models.fork.norms import separate_stream_norms
from ltml_mm.models.fork.suggestion import describe_children, suggest_fork
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
            one that ``forward`` runs ahead of the others, or ``'auto'``: see
            :func:`auto_fork_points`.
        init: How the re-balanced copy starts, ``'copy'`` or ``'reinit'``;
            see :class:`Branches`.
        bn_streams: ``'joint'``: batch norms see both streams of a step
            together. ``'separate'``: see :func:`separate_stream_norms`.

    Returns:
        list[str]: The names of the forked modules.

    Raises:
        ValueError: Names that do not fit, a backbone without a row, an
            output that does not reach the fork, or modules with weights
            behind it that ``at`` does not name.
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
    _check_forked_run(backbone, names, first)
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
        ValueError: ``FAMILIES`` has no row for the backbone, or it does not
            run on a blank image.
    """
    model = getattr(backbone, 'timm_model', backbone)
    prefix = '' if model is backbone else 'timm_model.'
    for cls in type(model).__mro__:
        library = cls.__module__.partition('.')[0]
        row = FAMILIES.get(f'{library}.{cls.__name__}')
        if row is not None:
            known = dict(backbone.named_modules())
            names = [f'{prefix}{name}' for name in row(model)]
            names = names or suggest_fork(backbone)
            names = [n for n in names if n in known and known[n].state_dict()]
            if names:
                return names
    owner = "timm's " if prefix else ''
    raise ValueError(
        f"fork.at='auto' has no row for {owner}{type(model).__name__}, or no "
        f'blank image runs through it. {describe_children(backbone)}'
    )


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


def _check_forked_run(
    backbone: nn.Module, names: list[str], first: FirstModule
) -> None:
    """Refuses weights that both branches share, and output without a fork."""
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
        sizes = batch_sizes(run_blank_image(backbone))
    except (RuntimeError, AssertionError):
        sizes = [2]  # The plain backbone does not run on one, either.
    finally:
        for handle in handles:
            handle.remove()
    if shared:
        raise ValueError(
            f'fork.at={names} leaves modules with weights behind the fork '
            f'that both branches would share: add {[*dict.fromkeys(shared)]}'
        )
    if 2 not in sizes:
        raise ValueError(
            f'no output of {type(backbone).__name__} comes from fork.at='
            f'{names}: out_indices={getattr(backbone, "out_indices", None)} '
            'leaves its stage out; add the number of that stage, or fork an '
            'earlier one'
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


def _by_structure(_: Any) -> list[str]:
    return []


# The last stage by library and class. A class that is not listed takes the
# row of the nearest class it extends: ResNeXt, SEResNet, SEResNeXt, ResNetV1c,
# ResNetV1d, ResNeSt, Res2Net, RegNet and ResNet_CIFAR that of ResNet, the DeiT
# models that of VisionTransformer. By name, because timm is no dependency.
FAMILIES: dict[str, Callable[[Any], list[str]]] = {
    # Where a dilation holds the resolution it is still the last stage.
    'mmpretrain.ResNet': lambda m: m.res_layers[-1:],
    'mmpretrain.VGG': lambda m: [
        *(f'{m.module_name}.{i}' for i in range(*m.range_sub_modules[-1])),
        'classifier',
    ],
    # What lowers the resolution ends the stage before.
    'mmpretrain.DenseNet': lambda m: [
        f'stages.{m.num_stages - 1}',
        f'transitions.{m.num_stages - 1}',
    ],
    'mmpretrain.SwinTransformer': lambda m: [
        f'stages.{m.num_layers - 1}',
        f'norm{m.num_layers - 1}',
    ],
    'mmpretrain.HRNet': lambda m: ['stage4'],
    'timm.ResNet': lambda m: ['layer4'],
    # With features_only: a flat dict of modules that ends at the last one
    # whose output is asked for.
    'timm.FeatureListNet': lambda m: list(m)[-1:],
    # Its head holds norms that forward_features leaves out or calls itself.
    'timm.ConvNeXt': lambda m: [
        f'stages.{len(m.stages) - 1}',
        'norm_pre',
        'head.norm',
        'head.pre_logits',
    ],
    **dict.fromkeys(
        (
            'mmpretrain.ConvNeXt',
            'mmpretrain.EfficientNet',
            'mmpretrain.MobileNetV2',
            'mmpretrain.MobileNetV3',
            'mmpretrain.PoolFormer',
            'mmpretrain.RepVGG',
            'mmpretrain.ShuffleNetV2',
            'mmpretrain.SwinTransformerV2',
            'mmpretrain.VisionTransformer',
            'timm.VisionTransformer',
        ),
        _by_structure,
    ),
}
