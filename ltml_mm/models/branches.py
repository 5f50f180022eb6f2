"""Modules that stand in for a module with two copies, one per branch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ltml_mm.models.nested import half, join, rebuild, versions

BRANCHES = ('uniform', 'rebalanced')


class Progress:
    """Whether the first module of a fork has run; shared by the later."""

    def __init__(self, first: str = '') -> None:
        self.first = first
        self.forked = False


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
        branch_init: ``'copy'``: both copies start from the same weights.
            ``'reinit'``: the re-balanced copy keeps its own random
            initialisation; a plain checkpoint loads into the uniform copy
            alone.
    """

    def __init__(
        self,
        uniform: nn.Module,
        rebalanced: nn.Module,
        branch_init: str = 'copy',
    ) -> None:
        super().__init__()
        self.uniform = uniform
        self.rebalanced = rebalanced
        self.training = uniform.training
        self.branch_init = branch_init
        self.awaits_sync = branch_init == 'copy'
        self.progress = Progress()

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
        if plain and self.branch_init == 'reinit':
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
                'the modules that it calls in fork_at instead'
            )
        return values[0]

    def _view(
        self, kind: type[Branches], uniform: Any, rebalanced: Any
    ) -> Branches:
        view = kind(uniform, rebalanced, self.branch_init)
        view.progress = self.progress
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
                'the second copy would not see the same: start fork_at one '
                'module earlier or build it without inplace=True'
            )
        outputs.append(rebalanced(rebuild(x), *args, **kwargs))
        self.progress.forked = True
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
            ValueError: The module ran before the first of ``fork_at``.
        """
        if self.progress.first and not self.progress.forked:
            raise ValueError(
                f'{type(self.copies[0]).__name__} ran before '
                f'"{self.progress.first}", the first module of fork_at: '
                'list the modules in the order in which forward runs them'
            )
        return join(
            [
                module(half(x, branch), *args, **kwargs)
                for branch, module in enumerate(self.copies)
            ]
        )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
