"""Says what to write where the fork of a backbone is not known."""

from __future__ import annotations

from torch import nn


def describe_children(backbone: nn.Module, prefix: str = '') -> str:
    """Lists a backbone's children and shows how to write ``fork``.

    Args:
        backbone: A backbone, or the part of it that has the children.
        prefix: What stands before their names.

    Returns:
        str: Whole sentences for an error message.
    """
    lines, weighty = [], []
    for child_name, child in backbone.named_children():
        name = label = prefix + child_name
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child):
            label = f'{name}.0 ... {name}.{len(child) - 1}'
        lines.append(f'{label} ({type(child).__name__})')
        if has_weights(child):
            weighty.append(_last_leaf(name, child))
    example = ', '.join(repr(name) for name in weighty[-2:])
    return (
        f'Its children are {", ".join(lines) or "none"}. Write '
        f'fork=dict(at=[{example}]), or whichever is the first module of the '
        'last stage and every module with weights that forward runs after it, '
        'in that order'
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
