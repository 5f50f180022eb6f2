"""The fork: two copies of a backbone's last stage behind one trunk."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ltml_mm.models.fork.branches import Branches, Fork, ForkedTail, Progress
from ltml_mm.models.fork.norms import separate_stream_norms
from ltml_mm.models.fork.points import auto_fork_points, describe_children


def fork_backbone(
    backbone: nn.Module,
    fork_at: str | Sequence[str] = 'auto',
    branch_init: str = 'copy',
    bn_streams: str = 'joint',
) -> list[str]:
    """Replaces a backbone's last modules by two copies, in place.

    The backbone's own ``forward`` runs unchanged and returns features whose
    batch is twice that of its input; :func:`split_branches` takes them
    apart. After the initialisation of the weights call
    :func:`sync_branches`.

    Args:
        backbone: A built backbone.
        fork_at: The names of the modules from the branching point on, in
            the order in which ``forward`` runs them, or ``'auto'`` for the
            built-in table.
        branch_init: How the re-balanced copy starts, ``'copy'`` or
            ``'reinit'``; see :class:`Branches`.
        bn_streams: ``'joint'``: batch norms see both streams of a step
            together. ``'separate'``: see :func:`separate_stream_norms`.

    Returns:
        list[str]: The names of the forked modules.

    Raises:
        ValueError: An option or a name that does not exist, names in the
            wrong order or inside one another, no row in the table.
    """
    _check_choice('branch_init', branch_init, ('copy', 'reinit'))
    _check_choice('bn_streams', bn_streams, ('joint', 'separate'))
    if fork_at == 'auto':
        names = auto_fork_points(backbone)
    else:
        names = [fork_at] if isinstance(fork_at, str) else list(fork_at)
    _check_names(backbone, names)
    progress = Progress(names[0])
    # One memo: what the modules share, and the backbone, stays shared.
    memo: dict[int, Any] = {id(backbone): backbone}
    for name in names:
        module = backbone.get_submodule(name)
        twin = copy.deepcopy(module, memo)
        if branch_init == 'reinit':
            twin.apply(_reset)
        kind = Fork if name == names[0] else ForkedTail
        branches = kind(module, twin, branch_init)
        branches.progress = progress
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
    return names


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}, got {value!r}')


def _check_names(backbone: nn.Module, names: list[str]) -> None:
    help_text = describe_children(backbone)
    if not names:
        raise ValueError(f'fork_at is empty. {help_text}')
    known = dict(backbone.named_modules())
    for name in names:
        if not name or name not in known:
            raise ValueError(
                f'fork_at names {name!r}, which '
                f'{type(backbone).__name__} does not have. {help_text}'
            )
        if any(isinstance(m, Branches) for m in _path(known, name)):
            raise ValueError(f'fork_at names {name!r}, which is forked')
    for index, name in enumerate(names):
        for earlier in names[:index]:
            _check_pair(earlier, name)


def _path(known: dict[str, nn.Module], name: str) -> list[nn.Module]:
    parts = name.split('.')
    return [known['.'.join(parts[: i + 1])] for i in range(len(parts))]


def _check_pair(earlier: str, later: str) -> None:
    if earlier == later:
        raise ValueError(f'fork_at names {later!r} twice')
    for outer, inner in ((earlier, later), (later, earlier)):
        if inner.startswith(f'{outer}.'):
            raise ValueError(
                f'fork_at names {inner!r}, which is inside {outer!r}: '
                'name only one of them'
            )
    # Across parents only forward knows the order; ForkedTail checks it there.
    parents, leaves = zip(
        *(name.rpartition('.')[::2] for name in (earlier, later)), strict=True
    )
    if (
        parents[0] == parents[1]
        and all(leaf.isdigit() for leaf in leaves)
        and int(leaves[0]) > int(leaves[1])
    ):
        raise ValueError(
            f'fork_at names {earlier!r} ahead of {later!r}: list the modules '
            'in the order in which forward runs them'
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
