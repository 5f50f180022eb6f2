"""Finds the last stage of a backbone by running it on a blank image."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from ltml_mm.models.parts import probe_features

#: The share of a plain transformer's blocks that counts as its last stage.
VIT_SHARE = 6
#: With more of its weights at the last resolution a network keeps its one.
CONSTANT = 0.9


def describe_children(backbone: nn.Module) -> str:
    """Lists a backbone's children and shows how to write ``fork``."""
    prefix = 'timm_model' if hasattr(backbone, 'timm_model') else ''
    lines = []
    for name, child in backbone.get_submodule(prefix).named_children():
        name = f'{prefix}.{name}'.lstrip('.')
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child):
            name = f'{name}.0 ... {name}.{len(child) - 1}'
        lines.append(f'{name} ({type(child).__name__})')
    names = suggest_fork(backbone)
    example = f'fork=dict(at={names}), or ' if names else ''
    return (
        f'Its children are {", ".join(lines) or "none"}. Write {example}'
        'whichever is the first module of the last stage and every module '
        'with weights that forward runs after it, in that order'
    )


def suggest_fork(backbone: nn.Module) -> list[str]:
    """Names the modules of the last stage, by running the backbone once.

    The last stage starts with the last module that lowers the resolution. Of
    a network that keeps its resolution it is the last sixth of the blocks.

    Returns:
        list[str]: Names of modules with weights, in the order of ``forward``;
        empty where the backbone does not run on a blank image.
    """
    try:
        tokens = _record_tokens(backbone)
    except ValueError:
        return []

    def inside(name: str) -> list[str]:
        """Names the outermost modules that are called inside a module."""
        found: list[str] = []
        for child, _ in backbone.get_submodule(name).named_children():
            inner = f'{name}.{child}'.lstrip('.')
            found += [inner] if inner in tokens else inside(inner)
        return sorted(found, key=[*tokens].index)

    def ratio(name: str) -> float:
        before, *_, after = tokens[name]
        # One position left of many is a global pooling.
        return 1 if after == 1 and before > 4 else max(1, before / after)

    def is_one_stage(name: str) -> bool:
        inner = max(inside(name), key=ratio, default='')
        if inner and ratio(inner) == ratio(name):
            return is_one_stage(inner)
        return not inner or ratio(inner) == 1

    def weight(name: str) -> int:
        return sum(
            p.numel() for p in backbone.get_submodule(name).parameters()
        )

    units, start = inside(''), 0
    while strided := [
        index
        for index, name in enumerate(units)
        # A pooling behind the last weights starts no stage.
        if ratio(name) > 1 and any(map(weight, units[index:]))
    ]:
        start = strided[-1]
        if is_one_stage(units[start]):
            break
        units[start : start + 1] = inside(units[start])
    total = weight('')
    if sum(map(weight, units[start:])) > CONSTANT * total:
        # Down to the blocks, where no module holds most of the weights.
        while inner := inside(heaviest := max(units, key=weight)):
            if weight(heaviest) <= total / 2:
                break
            at = units.index(heaviest)
            units[at : at + 1] = inner
        units = [name for name in units if weight(name)]
        kinds = [type(backbone.get_submodule(name)) for name in units]
        kind = Counter(kinds).most_common(1)[0][0]
        blocks = [index for index, own in enumerate(kinds) if own is kind]
        start = blocks[-max(1, len(blocks) // VIT_SHARE)]
    return [name for name in units[start:] if weight(name)]


def _record_tokens(backbone: nn.Module) -> dict[str, list[int]]:
    """Counts the positions ahead of and behind each module, in their order."""
    tokens: dict[str, list[int]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, *values: Any) -> None:
            tokens.setdefault(name, []).append(_count_tokens(values[-1]))

        return hook

    handles = []
    for name, module in [*backbone.named_modules()][1:]:
        handles.append(module.register_forward_pre_hook(note(name)))
        handles.append(module.register_forward_hook(note(name)))
    try:
        probe_features(backbone)
    finally:
        for handle in handles:
            handle.remove()
    return tokens


def _count_tokens(value: Any) -> int:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if not isinstance(value, Tensor) or value.dim() < 3:
        return 1
    # (N, L, C), (N, C, H, W), or (N, H, W, C), which has equal axes 1 and 2.
    maps = value.dim() == 4 and value.shape[2] == value.shape[3]
    return value.shape[2:].numel() if maps else value.shape[1:-1].numel()
