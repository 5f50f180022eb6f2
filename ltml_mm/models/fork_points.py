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
            return list(ROWS[cls](backbone))
    raise ValueError(
        f"fork_at='auto' has no row for {type(backbone).__name__}. "
        + describe_children(backbone)
    )


def describe_children(backbone: nn.Module) -> str:
    """Lists a backbone's children and shows how to write ``fork_at``."""
    lines, weighty = [], []
    for name, child in backbone.named_children():
        label = name
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


def _check_output(backbone: Any, last: int) -> None:
    indices: Sequence[int] = backbone.out_indices
    if last not in indices:
        raise ValueError(
            f"fork_at='auto' forks the last stage of "
            f'{type(backbone).__name__}, whose output is number {last}, but '
            f'out_indices={tuple(indices)} leaves it out: add {last} or '
            'name the modules to fork in fork_at'
        )


Row = Callable[[Any], Iterable[str]]
ROWS: dict[type, Row] = {backbones.ResNet: _resnet}
