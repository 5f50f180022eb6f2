"""Modules that stand in for a module with two copies, one per branch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

#: The branches, named like the streams that supervise them, in the order in
#: which a batch joins them.
BRANCHES = ('uniform', 'rebalanced')


class FirstModule:
    """The name of a fork's first module and whether it has run."""

    def __init__(self, name: str = '') -> None:
        self.name = name
        self.has_run = False


class Branches(BaseModule):
    """Two copies of a module, one per branch, in the module's place.

    A plain checkpoint loads into both copies; one that names the branches
    loads as it is. Attributes that the surrounding code reads from the
    module are handed through: a sub-module as :class:`ForkedTail` of both
    copies' sub-modules, anything else from the uniform copy. Methods are not,
    because they would run on one copy only.

    Args:
        uniform: The copy of the uniform branch.
        rebalanced: The copy of the re-balanced branch.
        init: ``'copy'``: both copies start from the same weights.
            ``'reinit'``: the re-balanced copy keeps its own random
            initialisation; a plain checkpoint loads into the uniform copy
            alone.
    """

    def __init__(
        self,
        uniform: nn.Module,
        rebalanced: nn.Module,
        init: str = 'copy',
    ) -> None:
        super().__init__()
        self.uniform = uniform
        self.rebalanced = rebalanced
        self.training = uniform.training
        self.init = init
        self.awaits_sync = init == 'copy'
        self.first = FirstModule()

    @property
    def copies(self) -> tuple[nn.Module, nn.Module]:
        """The copies, in the order of ``BRANCHES``."""
        modules: Any = self._modules
        return modules['uniform'], modules['rebalanced']

    def sync(self) -> None:
        """Copies the uniform copy's parameters and buffers to the other."""
        uniform, rebalanced = self.copies
        with torch.no_grad():
            for source, target in zip(
                _tensors(uniform), _tensors(rebalanced), strict=True
            ):
                target.copy_(source)
        self.awaits_sync = False

    def spread(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Renames a state dict's plain keys, in place, for both copies."""
        own = tuple(f'{prefix}{branch}.' for branch in BRANCHES)
        keys = [key for key in state_dict if key.startswith(prefix)]
        plain = [key for key in keys if not key.startswith(own)]
        if len(plain) < len(keys):
            # The checkpoint's copies have gone separate ways: keep them.
            self.awaits_sync = False
        fresh = {}
        if plain and self.init == 'reinit':
            fresh = self.copies[1].state_dict()
        for key in plain:
            name, value = key[len(prefix) :], state_dict.pop(key)
            state_dict.setdefault(own[0] + name, value)
            # Never the same tensor: load_state_dict(assign=True) keeps it.
            other = fresh[name] if name in fresh else copy.deepcopy(value)
            state_dict.setdefault(own[1] + name, other)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.spread(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith('_') or name in BRANCHES:
                raise
        values = [getattr(module, name) for module in self.copies]
        if isinstance(values[0], nn.Module):
            return self._view(ForkedTail, *values)
        if isinstance(values[0], MethodType):
            raise AttributeError(
                f'{type(self).__name__} hands no methods through, and '
                f'"{name}" is one of {type(self.copies[0]).__name__}: name '
                'the modules that it calls in fork.at instead'
            )
        return values[0]

    def _view(
        self, kind: type[Branches], uniform: Any, rebalanced: Any
    ) -> Branches:
        view = kind(uniform, rebalanced, self.init)
        view.first = self.first
        return view

    # A backbone that walks through the blocks of a forked stage itself runs
    # them one by one: the first forks, the later ones follow.
    def __len__(self) -> int:
        return len(self.copies[0])  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Branches:
        copies: Any = self.copies
        first = index in (0, -len(self))
        kind = type(self) if first else ForkedTail
        return self._view(kind, *(module[index] for module in copies))

    def __iter__(self) -> Iterator[Branches]:
        return (self[index] for index in range(len(self)))


class Fork(Branches):
    """The first forked module: both copies see the whole input."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs both copies and joins their outputs along the batch axis.

        Tensors (B, ...) give (2B, ...), the uniform branch first. A module
        that changes its input in place is an error.
        """
        uniform, rebalanced = self.copies
        given = ((x, *args), kwargs)
        seen = versions(given)
        # New lists around the same tensors: a copy may change those it gets.
        args, kwargs = tree_map(lambda leaf: leaf, given)
        output = uniform(*args, **kwargs)
        if seen != versions(given):
            raise ValueError(
                f'{type(uniform).__name__} changes its input in place, so '
                'the second copy would not see the same: start fork.at one '
                'module earlier or build it without inplace=True'
            )
        args, kwargs = tree_map(lambda leaf: leaf, given)
        output = join(output, rebalanced(*args, **kwargs))
        self.first.has_run = True
        return output


class ForkedTail(Branches):
    """A later forked module: each copy sees its half of the input."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs each copy on its half and joins the outputs again.

        The first argument, (2B, ...) with the uniform branch first, is
        halved; the others are handed to both copies as they are.
        """
        if self.first.name and not self.first.has_run:
            raise ValueError(
                f'{type(self.copies[0]).__name__} ran before '
                f'"{self.first.name}", the first module of fork.at: '
                'list the modules in the order in which forward runs them'
            )
        return join(
            *(
                module(half(x, branch), *args, **kwargs)
                for branch, module in enumerate(self.copies)
            )
        )


def sync_branches(module: nn.Module) -> None:
    """Copies the uniform copy's weights to the other one in every fork.

    Call it once the weights are initialised: initialisers draw other numbers
    for each copy. It does nothing for ``init='reinit'``, after a checkpoint
    with both branches, or when called again.

    Args:
        module: The model, or any part of it.
    """
    for branches in module.modules():
        if isinstance(branches, Branches) and branches.awaits_sync:
            branches.sync()


def split_branches(
    features: Any, batch_size: int | None = None
) -> dict[str, Any]:
    """Takes the output of a forked backbone apart, see :func:`half`.

    Args:
        features: What the backbone returns.
        batch_size: The number of images that it saw; checked against the
            features where it is given.

    Returns:
        dict[str, Any]: What the plain backbone returns, by branch.
    """
    size = max(batch_sizes(features), default=0)
    if batch_size is not None and size != 2 * batch_size:
        raise ValueError(
            f'the features have a batch of {size} for {batch_size} images, '
            'where two branches give twice as many: let the out_indices of '
            'the backbone reach the modules of fork.at'
        )
    return {name: half(features, i) for i, name in enumerate(BRANCHES)}


def plain_name(name: str) -> str:
    """Returns a parameter's name as it is in the plain backbone.

    Examples:
        >>> plain_name('backbone.layer4.rebalanced.0.conv1.weight')
        'backbone.layer4.0.conv1.weight'
    """
    return re.sub(rf'\.({"|".join(BRANCHES)})(?=\.)', '', name, count=1)


def join(first: Any, second: Any) -> Any:
    """Joins the outputs of both copies along the batch axis.

    Tensors (B, ...) become (2B, ...). Plain values beside them, such as a
    height and width, have to agree.
    """
    values, structure = tree_flatten(first)
    others = tree_flatten(second)[0]
    pairs = zip(values, others, strict=True)
    return tree_unflatten([_join(*pair) for pair in pairs], structure)


def _join(first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        if torch.jit.is_tracing() and not first.dim():
            return first  # a plain number, which tracing makes a tensor
        return torch.cat([first, second])
    if first is not None and not isinstance(first, bool | int | float | str):
        raise TypeError(
            'a forked module must return tensors, or lists, tuples and dicts '
            f'of tensors, got {type(first).__name__}'
        )
    if first != second:
        raise ValueError(
            'the copies of a forked module return different values: '
            f'{first} and {second}'
        )
    return first


def half(value: Any, index: int) -> Any:
    """Takes what belongs to one branch out of joined features.

    Tensors (2B, ...) become their first or second half (B, ...). Tensors
    (B, ...) beside them come from ahead of the fork and belong to both
    branches; another size is an error. Anything else stays as it is.
    """
    both = max(batch_sizes(value), default=0)
    if both % 2:
        raise ValueError(
            f'a batch of {both} does not hold two branches; a module of '
            'fork.at ran before the first one did'
        )
    size = both // 2

    def take(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.shape[:1] in ((), (size,)):
            return item
        if item.shape[0] != both:
            raise ValueError(
                f'a feature has a batch of {item.shape[0]} beside one of '
                f'{both}; it must be the same or half of it'
            )
        # Not chunk() or narrow(): a module may change its half in place, as
        # an inplace ReLU does, and nothing reads the whole any more. Not
        # unsafe_chunk(), which fixes the batch of an exported network.
        return torch.unsafe_split_with_sizes(item, [size, size])[index]

    return tree_map(take, value)


def batch_sizes(value: Any) -> list[int]:
    """Lists the length of the batch axis of each tensor."""
    return [t.shape[0] for t in _leaves(value) if t.dim()]


def versions(value: Any) -> list[int]:
    """Counts the in-place changes of each tensor, where torch counts them."""
    if torch.compiler.is_compiling():
        return []
    return [t._version for t in _leaves(value) if not t.is_inference()]


def _leaves(value: Any) -> list[Tensor]:
    return [v for v in tree_flatten(value)[0] if isinstance(v, Tensor)]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
