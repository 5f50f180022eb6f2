"""Modules that stand in for a module with two copies, one per branch."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

#: The branches, named like the streams that supervise them, in the order in
#: which a batch joins them.
BRANCHES = ('uniform', 'rebalanced')


class ForkState:
    """What the modules of one fork know of each other.

    Attributes:
        name: The name of the fork's first module.
        has_run: Whether that module has run.
        lengths: By module, ``'in'`` or ``'out'`` and number of values, how
            long each of them is in the plain network: n where it is n times
            the number of images, -n where it is n whatever their number, 0
            for what is no tensor.
        in_place: Modules that change what they are given.
        doubled: Whether the network runs on every image twice, and what is
            ahead of the fork on the first of the two.
        follows: Whether gradients are followed from the fork on, no matter
            what they are ahead of it.
    """

    def __init__(self, name: str = '') -> None:
        self.name = name
        self.has_run = False
        self.lengths: dict[tuple[str, str, int], list[int]] = {}
        self.in_place: set[str] = set()
        self.doubled = False
        self.follows = False

    def run(self, output: Any) -> Any:
        """Notes that the first module has run, and returns its output."""
        self.has_run = True
        if self.follows:
            torch.set_grad_enabled(True)
        return output

    def lengths_of(self, path: str, side: str, value: Any) -> list[int] | None:
        """Returns the lengths of a module's values, None if not known."""
        return self.lengths.get((path, side, len(leaves(value))))


class Branches(BaseModule):
    """Two copies of a module, one per branch, in the module's place.

    A plain checkpoint loads into both copies; one that names the branches
    loads as it is. Attributes that the surrounding code reads from the
    module are handed through: a sub-module as :class:`ForkedTail` of both
    copies' sub-modules, a method as one that runs on both, anything else from
    the uniform copy.

    Args:
        uniform: The copy of the uniform branch.
        rebalanced: The copy of the re-balanced branch.
        init: ``'copy'``: both copies start from the same weights.
            ``'reinit'``: the re-balanced copy keeps its own random weights;
            a plain checkpoint loads into the uniform copy alone.
    """

    def __init__(
        self, uniform: nn.Module, rebalanced: nn.Module, init: str = 'copy'
    ) -> None:
        super().__init__()
        self.uniform = uniform
        self.rebalanced = rebalanced
        self.training = uniform.training
        self.init = init
        self.awaits_sync = init == 'copy'
        self.first = ForkState()
        self.path = ''

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
            # Half-made copies have no modules yet.
            if name.startswith('__') or name in (*BRANCHES, '_modules'):
                raise
        values = [getattr(module, name) for module in self.copies]
        if isinstance(values[0], nn.Module):
            return self._view(ForkedTail, name, *values)
        if isinstance(values[0], MethodType):
            return partial(self._run_method, name)
        if name.startswith('_'):
            raise AttributeError(f'{type(self).__name__} hides {name!r}')
        return values[0]

    def _run_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(v, Tensor) for v in leaves((args, kwargs))):
            raise ValueError(
                f'{type(self).__name__} hands no methods through that take '
                f'tensors, and "{name}" is one of '
                f'{type(self.copies[0]).__name__}: name the modules that it '
                'calls in fork.at instead, or build the backbone so that it '
                'does not call it'
            )
        return join(*[getattr(m, name)(*args, **kwargs) for m in self.copies])

    def _view(
        self, kind: type[Branches], name: str, uniform: Any, rebalanced: Any
    ) -> Branches:
        view = kind(uniform, rebalanced, self.init)
        view.first = self.first
        view.path = f'{self.path}.{name}'
        return view

    # A backbone that walks through the blocks of a forked stage itself runs
    # them one by one: the first forks, the later ones follow.
    def __len__(self) -> int:
        return len(self.copies[0])  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Branches:
        copies: Any = self.copies
        index %= len(self)
        kind = ForkedTail if index else type(self)
        return self._view(
            kind, str(index), *(module[index] for module in copies)
        )

    def __iter__(self) -> Iterator[Branches]:
        return (self[index] for index in range(len(self)))

    def run_on_halves(self, *args: Any, **kwargs: Any) -> Any:
        """Runs each copy on its half and joins the outputs again."""
        given = args, kwargs
        lengths = self.first.lengths_of(self.path, 'in', given)
        outputs = []
        for branch, module in enumerate(self.copies):
            own_args, own_kwargs = half_call(given, branch, lengths)
            outputs.append(module(*own_args, **own_kwargs))
        return join(*outputs)


class Fork(Branches):
    """The first forked module: both copies see the whole input."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs both copies and joins their outputs along the batch axis.

        Tensors (B, ...) give (2B, ...), the uniform branch first. A module
        that changes its input in place is an error, unless the plain network
        was seen to work so: then the uniform copy gets an input of its own.
        """
        if self.first.doubled:
            return self.first.run(self.run_on_halves(*args, **kwargs))
        uniform, rebalanced = self.copies
        given = args, kwargs
        seen = versions(given)
        own = self.path in self.first.in_place
        # New lists around the same tensors: a copy may change those it gets.
        args, kwargs = map_leaves(_clone if own else _same, given)
        output = uniform(*args, **kwargs)
        if seen != versions(given):
            raise ValueError(
                f'{type(uniform).__name__} changes its input in place, so '
                'the second copy would not see the same: start fork.at one '
                'module earlier or build it without inplace=True'
            )
        args, kwargs = map_leaves(_same, given)
        return self.first.run(join(output, rebalanced(*args, **kwargs)))


class ForkedTail(Branches):
    """A later forked module: each copy sees its half of the input."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs each copy on its half and joins the outputs again.

        Of the arguments, tensors (2B, ...) with the uniform branch first are
        halved, see :func:`half_call`; each copy gets the others whole.
        """
        if self.first.name and not self.first.has_run:
            raise ValueError(
                f'{type(self.copies[0]).__name__} ran before '
                f'"{self.first.name}", the first module of fork.at: '
                'list the modules in the order in which forward runs them'
            )
        return self.run_on_halves(*args, **kwargs)


def sync_branches(module: nn.Module) -> None:
    """Copies the uniform copy's weights to the other one in every fork.

    Call it once the weights are initialised: initialisers draw other numbers
    for each copy. It does nothing for ``init='reinit'``, after a checkpoint
    with both branches, or when called again.
    """
    for branches in module.modules():
        if isinstance(branches, Branches) and branches.awaits_sync:
            branches.sync()


def split_branches(
    features: Any, batch_size: int | None = None
) -> dict[str, Any]:
    """Takes the output of a forked backbone apart, see :func:`half`.

    Returns what the plain backbone returns, by branch. ``batch_size``, where
    given, is checked against the features.
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
    values = leaves(second)
    if len(leaves(first)) != len(values):
        raise ValueError('the copies of a forked module return other lengths')
    others = iter(values)
    return map_leaves(lambda own: _join(own, next(others)), first)


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
    both = _even(max(batch_sizes(value), default=0))
    size = both // 2

    def take(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.shape[:1] in ((), (size,)):
            return item
        if item.shape[0] != both:
            raise ValueError(
                f'a feature has a batch of {item.shape[0]} beside one of '
                f'{both}; it must be the same or half of it'
            )
        return _part(item, index)

    return map_leaves(take, value)


def half_call(
    given: tuple[tuple, dict], index: int, lengths: list[int] | None = None
) -> Any:
    """Takes what belongs to one branch out of a module's arguments.

    Args:
        given: The positional arguments and those by keyword.
        index: Which branch.
        lengths: Of the values in the plain network, see :class:`ForkState`.
            Tensors that hold twice as many images as those from ahead of the
            fork are halved, and tables of twice their length. Where it is
            not known, tensors as long as the longest in the first argument.
    """
    values = leaves(given)
    if lengths is None:
        first = len(leaves(given[0][:1] or [*given[1].values()][:1]))
        known = [1 if i < first else 0 for i in range(len(values))]
    else:
        known = lengths
    tensors = [isinstance(v, Tensor) and v.dim() > 0 for v in values]
    counts = [
        value.shape[0] // length if length > 1 else value.shape[0]
        for value, length, fits in zip(values, known, tensors, strict=True)
        if fits and length > 0
    ]
    both = _even(max(counts, default=0))
    numbers = iter(range(len(values)))

    def take(item: Any) -> Any:
        at = next(numbers)
        if not tensors[at]:
            return item
        length = 1 if lengths is None else lengths[at]
        whole = both * length if length > 0 else -2 * length
        return _part(item, index) if item.shape[0] == whole else item

    return map_leaves(take, given)


def _even(both: int) -> int:
    if both % 2:
        raise ValueError(
            f'a batch of {both} does not hold two branches; a module of '
            'fork.at ran before the first one did'
        )
    return both


def _part(item: Tensor, index: int) -> Tensor:
    size = item.shape[0] // 2
    # Not chunk() or narrow(): a module may change its half in place, as an
    # inplace ReLU does, and nothing reads the whole any more. Not
    # unsafe_chunk(), which fixes the batch of an exported network.
    return torch.unsafe_split_with_sizes(item, [size, size])[index]


def batch_sizes(value: Any) -> list[int]:
    """Lists the length of the batch axis of each tensor."""
    found = [v for v in leaves(value) if isinstance(v, Tensor)]
    return [tensor.shape[0] for tensor in found if tensor.dim()]


def versions(value: Any) -> list[int]:
    """Counts the in-place changes of each tensor, where torch counts them."""
    if torch.compiler.is_compiling():
        return []
    found = [v for v in leaves(value) if isinstance(v, Tensor)]
    return [t._version for t in found if not t.is_inference()]


def leaves(value: Any) -> list[Any]:
    """Lists what lists, tuples, dicts and data classes hold, in order.

    Mappings of their own class, such as the ``ModelOutput`` of Hugging Face,
    are dicts, too.
    """
    parts = _parts(value)
    if parts is None:
        return [value]
    return [leaf for part in parts for leaf in leaves(part)]


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Rebuilds a structure with new leaves, see :func:`leaves`."""
    parts = _parts(value)
    if parts is None:
        return function(value)
    new = [map_leaves(function, part) for part in parts]
    if isinstance(value, Mapping):
        items = dict(zip(value, new, strict=True))
        if type(value) is dict:
            return items
        twin: Any = copy.copy(value)
        for key, item in items.items():
            twin[key] = item
        return twin
    if isinstance(value, list | tuple):
        kind: Any = type(value)
        return kind(*new) if hasattr(value, '_fields') else kind(new)
    names = [field.name for field in fields(value)]
    return replace(value, **dict(zip(names, new, strict=True)))


def _parts(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple):
        return [*value]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return None


def _same(leaf: Any) -> Any:
    return leaf


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
