"""The fork: two copies of a backbone's last stage behind one trunk."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ltml_mm.models.fork.branches import (
    BRANCHES,
    Branches,
    Fork,
    ForkedTail,
    ForkState,
    batch_sizes,
    half,
    half_call,
    join,
    leaves,
    map_leaves,
)
from ltml_mm.models.fork.norms import separate_stream_norms
from ltml_mm.models.fork.suggestion import (
    PlainRun,
    describe_children,
    is_close,
    is_last_stage,
    suggest_fork,
)
from ltml_mm.models.parts import CLASS_TOKENS, FAULTS, run

#: Learned inputs: class tokens and tables of positions, by their names.
INPUTS = re.compile(rf'{"|".join(CLASS_TOKENS)}|pos\w*_embed')


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

    The fork is proved on a random image: both halves are what the plain
    backbone gives, and no weights behind the fork are shared. Where a
    ``forward`` reads the batch size ahead of the fork and uses it behind, the
    image runs through it twice, and every module ahead of the fork works on
    the first of them and hands its output on for both.

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
        ValueError: Names that do not fit, a backbone without a last stage
            that can be found, or a fork that fails the proof.
    """
    try:
        plain, fault = PlainRun(backbone), None
    except FAULTS as error:
        plain, fault = None, error
    if at == 'auto':
        names = auto_fork_points(backbone, plain, fault)
    else:
        names = [at] if isinstance(at, str) else list(at)
    _check_names(backbone, names, plain)
    kind = type(getattr(backbone, 'timm_model', backbone)).__name__
    children = describe_children(backbone)
    state = _put_copies(backbone, names, init, plain)
    if bn_streams == 'separate':
        separate_stream_norms(backbone)
    if plain is not None:
        try:
            _prove(backbone, names, state, plain, init)
        except _SharedWeightsError:
            raise
        except FAULTS as error:
            _double_trunk(backbone, names, state, plain)
            try:
                _prove(backbone, names, state, plain, init)
            except FAULTS as second:
                if isinstance(second, _SharedWeightsError):
                    raise
                raise ValueError(
                    f'fork.at={names} does not fork {kind}: {error}. '
                    f'{children}'
                ) from error
    return names


def _put_copies(
    backbone: nn.Module, names: list[str], init: str, plain: PlainRun | None
) -> ForkState:
    """Puts two copies in the place of each named module."""
    state = ForkState(names[0])
    if plain is not None:
        state.lengths, state.in_place = plain.lengths, plain.in_place
    # One memo: what the modules share, and the backbone, stays shared.
    memo: dict[int, Any] = {id(backbone): backbone}
    for name in names:
        module = backbone.get_submodule(name)
        kind = Fork if name == names[0] else ForkedTail
        branches = kind(module, _twin(module, init, memo), init)
        branches.first, branches.path = state, name
        parent, _, leaf = name.rpartition('.')
        backbone.get_submodule(parent).add_module(leaf, branches)
    # Ahead of the backbone's own hooks, which look for keys by their name in
    # the model, such as position tables that have to be resized.
    handle = backbone._register_load_state_dict_pre_hook(
        _spread_all, with_module=True
    )
    hooks: Any = backbone._load_state_dict_pre_hooks
    hooks.move_to_end(handle.id, last=False)
    return state


def fork_neck(neck: nn.Module | None, init: str) -> nn.Module | None:
    """Copies a neck for each branch where it has parameters."""
    if neck is None or not any(True for _ in neck.parameters()):
        return neck
    return ForkedTail(neck, _twin(neck, init), init)


def _twin(module: nn.Module, init: str, memo: Any = None) -> nn.Module:
    twin = copy.deepcopy(module, memo)
    return twin.apply(_reset) if init == 'reinit' else twin


def trunk_parameters(model: Any) -> set[nn.Parameter]:
    """Returns what two branches share of a network's backbone, or would.

    Raises:
        ValueError: It is not forked, and cannot be.
    """
    try:
        stage = getattr(model, 'fork_at', None)
        stage = stage or fork_backbone(copy.deepcopy(model.backbone).cpu())
    except (AttributeError, ValueError) as error:
        raise ValueError(f'{error}; trunk_lr_mult=1 needs no stage') from error
    forked = tuple(f'{name}.' for name in stage)
    named = model.backbone.named_parameters()
    return {p for name, p in named if not name.startswith(forked)}


def auto_fork_points(
    backbone: Any,
    plain: PlainRun | None = None,
    fault: Exception | None = None,
) -> list[str]:
    """Names the modules of a backbone's last stage, in their order.

    The last stage is what works at the last resolution, the final norms
    included; of a plain transformer the last sixth of the blocks. It is found
    by :func:`suggest_fork`, but for families with a row in ``FAMILIES``.

    Args:
        backbone: A backbone that is not forked.
        plain: A run of it, None where it does not run.
        fault: Why it does not.

    Raises:
        ValueError: It does not run on a random image, or what was found is
            no last stage: it has to hold 2 to 98 % of the weights and 0.2 to
            70 % of the operations.
    """
    model = getattr(backbone, 'timm_model', backbone)
    prefix = '' if model is backbone else 'timm_model.'
    owner = (
        f"timm's {type(model).__name__}" if prefix else type(model).__name__
    )
    for cls in type(model).__mro__:
        library = cls.__module__.partition('.')[0]
        row = FAMILIES.get(f'{library}.{cls.__name__}')
        if row is not None:
            known = dict(backbone.named_modules())
            names = [f'{prefix}{name}' for name in row(model)]
            names = [n for n in names if n in known and known[n].state_dict()]
            if names:
                return names
    if plain is None:
        raise ValueError(
            f"fork.at='auto' has no row for {owner}, and no random image "
            f'runs through it: {fault}. {describe_children(backbone)}'
        )
    names = suggest_fork(backbone, plain)
    if not names or not is_last_stage(backbone, plain, names):
        raise ValueError(
            f"fork.at='auto' finds no last stage in {owner}; by the "
            f'resolution it would be {names}. {describe_children(backbone)}'
        )
    return names


def _check_names(
    backbone: nn.Module, names: list[str], plain: PlainRun | None
) -> None:
    def children() -> str:
        try:
            suggested = auto_fork_points(backbone, plain)
        except ValueError:
            suggested = []
        return describe_children(backbone, suggested)

    if not names:
        raise ValueError(f'fork.at is empty. {children()}')
    known = dict(backbone.named_modules())
    for name in names:
        if not name or name not in known:
            raise ValueError(
                f'fork.at names {name!r}, which {type(backbone).__name__} '
                f'does not have. {children()}'
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


class _SharedWeightsError(ValueError):
    """Both branches would share weights that lie behind the fork."""


def _prove(
    backbone: nn.Module,
    names: list[str],
    state: ForkState,
    plain: PlainRun,
    init: str,
) -> None:
    """Raises an error unless both branches are the plain backbone."""
    shared: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, inputs: Any) -> None:
            # Of one image, only the joined features have an even batch.
            batch = batch_sizes(inputs)[:1]
            joined = state.doubled or (batch and batch[0] % 2 == 0)
            inside = any(name.startswith(f'{outer}.') for outer in shared)
            if state.has_run and joined and not inside:
                shared.append(name)

        return hook

    handles = [
        module.register_forward_pre_hook(note(name), prepend=True)
        for name, module in _unforked(backbone, names)
        if any(True for _ in module.parameters())
    ]
    state.has_run = False
    try:
        features, used = _run_and_follow(
            backbone, names, state, plain.images[:1]
        )
    finally:
        for handle in handles:
            handle.remove()
    if shared:
        raise _SharedWeightsError(
            f'fork.at={names} leaves modules with weights behind the fork '
            f'that both branches would share: add {[*dict.fromkeys(shared)]}'
        )
    if used:
        raise _SharedWeightsError(
            f'fork.at={names} leaves weights behind the fork that both '
            f'branches would share: {used}. Fork the module that uses them, '
            'or behind it'
        )
    if 2 not in batch_sizes(features):
        raise ValueError(
            f'no output of {type(backbone).__name__} comes from fork.at='
            f'{names}: out_indices={getattr(backbone, "out_indices", None)} '
            'leaves its stage out; add the number of that stage, or fork an '
            'earlier one'
        )
    if not plain.is_function:
        return
    expected = leaves(plain.features)
    if init == 'copy' and not is_close(leaves(half(features, 1)), expected):
        raise ValueError(
            'the re-balanced branch does not give what the plain backbone '
            'gives for one image'
        )
    with _other_weights(backbone, names):
        uniform, other = (
            leaves(half(run(backbone, plain.images), branch))
            for branch in range(len(BRANCHES))
        )
    expected = leaves(plain.both)
    if not is_close(uniform, expected) or is_close(other, expected, 1e-7):
        raise ValueError(
            'the branches do not keep to their halves of the batch: other '
            'weights of the re-balanced copies have to change its half alone'
        )


def _run_and_follow(
    backbone: nn.Module, names: list[str], state: ForkState, images: Tensor
) -> tuple[Any, list[str]]:
    """Returns features, and the weights of no branch that the fork feeds.

    What joins them behind the fork as an input does not count.
    """
    forked = tuple(f'{name}.' for name in names)
    learning = [p for p in backbone.parameters() if p.requires_grad]
    weights = {
        name: weight
        for name, weight in backbone.named_parameters()
        if weight.is_floating_point() and not name.startswith(forked)
    }
    try:
        backbone.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad = True
        state.follows = True
        features = run(backbone, images)
        joined = [f for f in leaves(features) if batch_sizes(f) == [2]]
        roots = [f.sum() for f in joined if f.requires_grad]
        # The backbone may have frozen some of them again as it ran.
        weights = {n: w for n, w in weights.items() if w.requires_grad}
        found: Any = [None] * len(weights)
        if roots and weights:
            found = torch.autograd.grad(
                roots, [*weights.values()], allow_unused=True
            )
    finally:
        state.follows = False
        backbone.requires_grad_(False)
        for weight in learning:
            weight.requires_grad = True
    reached = [n for n, g in zip(weights, found, strict=True) if g is not None]
    return features, [
        name for name in reached if not INPUTS.search(name.split('.')[-1])
    ]


@contextmanager
def _other_weights(backbone: nn.Module, names: list[str]) -> Iterator[None]:
    """Gives the re-balanced copies other weights for a while."""
    generator = torch.Generator().manual_seed(0)
    copies: list[Any] = [backbone.get_submodule(name) for name in names]
    weights = {
        id(weight): weight
        for branches in copies
        for weight in branches.copies[1].parameters()
        if weight.is_floating_point()
    }
    saved = {key: weight.detach().clone() for key, weight in weights.items()}
    try:
        for weight in weights.values():
            noise = torch.randn(weight.shape, generator=generator)
            weight.data.add_(noise.to(weight), alpha=0.1)
        yield
    finally:
        for key, weight in weights.items():
            weight.data.copy_(saved[key])


def _unforked(
    backbone: nn.Module, names: list[str]
) -> list[tuple[str, nn.Module]]:
    """Lists the modules that neither are forked nor hold forked ones."""
    forked = tuple(f'{name}.' for name in names)
    return [
        (name, module)
        for name, module in [*backbone.named_modules()][1:]
        if not f'{name}.'.startswith(forked)
        and not any(own.startswith(f'{name}.') for own in forked)
    ]


def _double_trunk(
    backbone: nn.Module, names: list[str], state: ForkState, plain: PlainRun
) -> None:
    """Runs every image twice, and the trunk on the first of the two.

    For a ``forward`` that takes the batch size from its input and uses it
    behind the fork, where it is twice as large otherwise.
    """
    state.doubled = True
    backbone.register_forward_pre_hook(partial(_repeat_images, state))
    unforked = dict(_unforked(backbone, names))
    for name, module in unforked.items():
        sizes = [
            size
            for (own, side, _), found in plain.lengths.items()
            if (own, side) == (name, 'in')
            for size in found
        ]
        inside = plain.callers.get(name) in unforked
        if not inside and max(sizes, default=0) > 0:
            module.register_forward_pre_hook(
                partial(_halve_input, state, name), with_kwargs=True
            )
            module.register_forward_hook(partial(_repeat_output, state, name))


def _repeat_images(state: ForkState, _: nn.Module, inputs: tuple) -> Any:
    state.has_run = False
    return join(inputs, inputs)


def _halve_input(
    state: ForkState, name: str, _: nn.Module, args: tuple, kwargs: dict
) -> Any:
    given = args, kwargs
    if state.has_run:  # behind the fork, where the halves differ
        return given
    return half_call(given, 0, state.lengths_of(name, 'in', given))


def _repeat_output(
    state: ForkState, name: str, _: nn.Module, inputs: Any, output: Any
) -> Any:
    if state.has_run:
        return output
    lengths = state.lengths_of(name, 'out', output)
    sizes = iter(lengths or [1] * len(leaves(output)))
    return map_leaves(
        lambda leaf: join(leaf, leaf) if next(sizes) > 0 else leaf, output
    )


def _reset(module: nn.Module) -> None:
    for name in ('reset_parameters', '_reset_parameters'):
        reset = getattr(module, name, None)
        if callable(reset):
            reset()


def _spread_all(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    for name, branches in module.named_modules():
        if isinstance(branches, Branches):
            branches.spread(state_dict, f'{prefix}{name}.')


# The last stage by library and class, where it is not found by structure. A
# class that is not listed takes the row of the nearest class it extends:
# ResNeXt, SEResNet, SEResNeXt, ResNetV1c, ResNetV1d, ResNeSt, Res2Net, RegNet
# and ResNet_CIFAR that of ResNet. By name, because timm is no dependency.
FAMILIES: dict[str, Callable[[Any], list[str]]] = {
    # Where a dilation holds the resolution it is still the last stage.
    'mmpretrain.ResNet': lambda m: m.res_layers[-1:],
    # A classifier may hold more weights than all that is ahead of it.
    'mmpretrain.VGG': lambda m: [
        *(f'{m.module_name}.{i}' for i in range(*m.range_sub_modules[-1])),
        'classifier',
    ],
    # Several resolutions to the end.
    'mmpretrain.HRNet': lambda m: ['stage4'],
    'timm.HighResolutionNet': lambda m: [
        'stage4',
        'incre_modules',
        'downsamp_modules',
        'final_layer',
    ],
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
}
