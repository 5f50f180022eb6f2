"""Modules that stand in for a module with two copies, one per branch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

BRANCHES = ('uniform', 'rebalanced')


class FirstModule:
    """Tells the later modules of a fork whether the first one has run.

    Args:
        name: Its name in the backbone.
    """

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
        """Renames the plain keys of a state dict to those of both copies.

        Args:
            state_dict: Changed in place.
            prefix: The module's own prefix, with its trailing dot.
        """
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

        Args:
            x: A tensor of shape (B, ...), or a list or tuple of them.
            *args: Handed to both copies as they are.
            **kwargs: Handed to both copies as they are.

        Returns:
            What the plain module returns, each tensor with the batch of the
            uniform copy followed by that of the re-balanced one, (2B, ...).

        Raises:
            ValueError: The module changes its input in place.
        """
        uniform, rebalanced = self.copies
        seen = versions(x)
        outputs = [uniform(rebuild(x), *args, **kwargs)]
        if seen != versions(x):
            raise ValueError(
                f'{type(uniform).__name__} changes its input in place, so '
                'the second copy would not see the same: start fork.at one '
                'module earlier or build it without inplace=True'
            )
        outputs.append(rebalanced(rebuild(x), *args, **kwargs))
        self.first.has_run = True
        return join(outputs)


class ForkedTail(Branches):
    """A later forked module: each copy sees its half of the input."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs each copy on its half and joins the outputs again.

        Args:
            x: A tensor of shape (2B, ...), the uniform branch first, or a
                list or tuple of them; see :func:`half`.
            *args: Handed to both copies as they are.
            **kwargs: Handed to both copies as they are.

        Returns:
            What the plain module returns, each tensor of shape (2B, ...).

        Raises:
            ValueError: The module ran before the first of ``fork.at``.
        """
        if self.first.name and not self.first.has_run:
            raise ValueError(
                f'{type(self.copies[0]).__name__} ran before '
                f'"{self.first.name}", the first module of fork.at: '
                'list the modules in the order in which forward runs them'
            )
        return join(
            [
                module(half(x, branch), *args, **kwargs)
                for branch, module in enumerate(self.copies)
            ]
        )


def sync_branches(module: nn.Module) -> None:
    """Lets both copies of every fork start from the same weights.

    To be called once the weights are initialised: initialisers draw other
    numbers for each copy. Does nothing for ``init='reinit'``, where a
    checkpoint with both branches was loaded, or when called again.

    Args:
        module: The model, or any part of it.
    """
    for branches in module.modules():
        if isinstance(branches, Branches) and branches.awaits_sync:
            branches.sync()


def split_branches(
    features: Any, batch_size: int | None = None
) -> dict[str, Any]:
    """Takes the output of a forked backbone apart.

    Args:
        features: A tensor, or nested lists and tuples of them. Those from
            ahead of the fork, which have half the batch of the others, go
            to both branches.
        batch_size: The number of images that the backbone saw; checked
            against the features where it is given.

    Returns:
        dict[str, Any]: What the plain backbone returns, for each name in
        ``BRANCHES``.

    Raises:
        ValueError: The features do not hold both branches.
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


def join(outputs: Sequence[Any]) -> Any:
    """Joins structures of the same shape along the batch axis.

    Args:
        outputs: Tensors, or lists and tuples of them that hold plain values
            besides, such as a height and width; those have to agree.

    Returns:
        Any: One structure whose tensors are concatenated along axis 0.

    Raises:
        ValueError: The plain values differ.
        TypeError: Something is neither a tensor, list, tuple nor a plain
            value.
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, list | tuple):
        items = zip(*outputs, strict=True)
        return like(first, [join(item) for item in items])
    if first is not None and not isinstance(first, bool | int | float | str):
        raise TypeError(
            'a forked module must return a tensor, or a list or tuple of '
            f'tensors, got {type(first).__name__}'
        )
    if any(other != first for other in outputs[1:]):
        raise ValueError(
            f'the copies of a forked module return different values: {outputs}'
        )
    return first


def half(value: Any, index: int) -> Any:
    """Takes what belongs to one branch out of joined features.

    Args:
        value: A tensor of shape (2B, ...), or lists and tuples of them;
            anything else stays as it is. Tensors of shape (B, ...) beside
            them come from ahead of the fork and belong to both branches.
        index: 0 for the first half, 1 for the second.

    Returns:
        Any: The same structure with tensors of shape (B, ...).

    Raises:
        ValueError: The largest batch has an odd size, or a tensor's batch is
            neither that nor half of it.
    """
    sizes = batch_sizes(value)
    if sizes and max(sizes) % 2:
        raise ValueError(
            f'a batch of {max(sizes)} does not hold two branches; a module '
            'of fork.at ran before the first one did'
        )
    return _take(value, index, max(sizes, default=0) // 2)


def _take(value: Any, index: int, size: int) -> Any:
    if isinstance(value, list | tuple):
        return like(value, [_take(item, index, size) for item in value])
    if not isinstance(value, Tensor) or len(value) == size:
        return value
    if len(value) != 2 * size:
        raise ValueError(
            f'a feature has a batch of {len(value)} beside one of '
            f'{2 * size}; it must be the same or half of it'
        )
    # Not chunk(): a module may change its half in place, as an inplace ReLU
    # does, and nothing reads the whole any more.
    return value.unsafe_chunk(2)[index]


def rebuild(value: Any) -> Any:
    """Makes new lists and tuples around the same tensors."""
    if isinstance(value, list | tuple):
        return like(value, [rebuild(item) for item in value])
    return value


def like(value: Sequence[Any], items: list[Any]) -> Any:
    """Makes a list, tuple or named tuple of the type of ``value``."""
    if hasattr(value, '_fields'):
        return type(value)(*items)
    return type(value)(items)  # type: ignore[call-arg]


def batch_sizes(value: Any) -> list[int]:
    """Lists the length of the batch axis of each tensor."""
    if isinstance(value, list | tuple):
        return [size for item in value for size in batch_sizes(item)]
    return [len(value)] if isinstance(value, Tensor) else []


def versions(value: Any) -> list[int]:
    """Counts the in-place changes of each tensor, where torch counts them."""
    if torch.compiler.is_compiling():
        return []
    if isinstance(value, list | tuple):
        return [number for item in value for number in versions(item)]
    if isinstance(value, Tensor) and not value.is_inference():
        return [value._version]
    return []


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
