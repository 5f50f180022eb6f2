"""Features as tensors, or as nested lists and tuples of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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
            'of fork_at ran before the first one did'
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
