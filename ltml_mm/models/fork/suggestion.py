"""Finds the last stage of a backbone from one run of it."""

from __future__ import annotations

from collections import Counter

from torch import nn

from ltml_mm.models.fork.plain_run import PlainRun

#: The share of a plain transformer's blocks that counts as its last stage.
VIT_SHARE = 6
#: With more of its weights, and most of its operations, at the last
#: resolution a network keeps its one.
CONSTANT = 0.9
#: What a last stage may hold of a network's weights and of its operations.
WEIGHTS = (0.02, 0.98)
OPERATIONS = (0.002, 0.7)


def describe_children(
    backbone: nn.Module, suggested: list[str] | None = None
) -> str:
    """Lists a backbone's children and says how to write ``fork``."""
    prefix = 'timm_model' if hasattr(backbone, 'timm_model') else ''
    lines = []
    for name, child in backbone.get_submodule(prefix).named_children():
        name = f'{prefix}.{name}'.lstrip('.')
        names = [inner for inner, _ in child.named_children()]
        if isinstance(child, nn.ModuleList | nn.Sequential) and names:
            name = f'{name}.{names[0]} ... {name}.{names[-1]}'
        lines.append(f'{name} ({type(child).__name__})')
    own = f'Write fork=dict(at={suggested}), or name' if suggested else 'Name'
    return (
        f'Its children are {", ".join(lines) or "none"}. {own} in '
        'fork=dict(at=[...]) the first module of the last stage and every '
        'module with weights that forward runs after it, in that order'
    )


def suggest_fork(backbone: nn.Module, run: PlainRun) -> list[str]:
    """Names the modules of the last stage.

    The last stage starts with the last module that lowers the resolution, or
    behind it where that one ends a stage. Of a network that keeps its
    resolution it is the last sixth of the blocks.

    Returns:
        list[str]: Names of modules with weights, in the order of ``forward``.
    """
    tokens = run.tokens

    def inside(name: str) -> list[str]:
        """Names the modules that are called inside the call of another."""
        return [own for own in tokens if run.callers[own] == name]

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
        return count_weights(backbone, [name])

    def ends_a_stage(name: str) -> bool:
        """Whether what lowers the resolution is a stage's last module."""
        inner = inside(name)
        strided = [i for i, part in enumerate(inner) if ratio(part) > 1]
        # Several of them lie beside each other, as a shortcut does.
        if len(strided) != 1 or any(map(weight, inner[strided[0] + 1 :])):
            return False
        last, ahead = inner[strided[0]], inner[: strided[0]]
        if not ahead:
            return ends_a_stage(last)
        return sum(map(weight, ahead)) > weight(last)

    units, start = inside(''), 0
    # Wrappers hold all there is.
    while len(own := [u for u in units if weight(u)]) == 1 and inside(own[0]):
        units = inside(own[0])
    while strided := [
        index
        for index, name in enumerate(units)
        # A pooling behind the last weights starts no stage.
        if ratio(name) > 1 and any(map(weight, units[index:]))
    ]:
        start = strided[-1]
        if is_one_stage(units[start]):
            name = units[start]
            # Of a stage whose module has run already, or its own last one.
            last = any(name.startswith(f'{unit}.') for unit in units)
            later = any(map(weight, units[start + 1 :]))
            start += later and (last or ends_a_stage(name))
            break
        units[start : start + 1] = inside(units[start])
    total = weight('')
    heavy = sum(map(weight, units[start:])) > CONSTANT * total
    if heavy and share_of_operations(run, units[start:]) > 0.5:
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
    found = [name for name in units[start:] if weight(name)]
    outer = tuple(f'{name}.' for name in found)
    return [name for name in found if not name.startswith(outer)]


def count_weights(backbone: nn.Module, names: list[str]) -> int:
    """Counts the parameters of some modules."""
    return sum(
        parameter.numel()
        for name in names
        for parameter in backbone.get_submodule(name).parameters()
    )


def share_of_operations(run: PlainRun, names: list[str]) -> float:
    """Returns the share of some modules in a network's operations."""
    return sum(run.flops.get(n, 0) for n in names) / max(run.flops[''], 1)


def is_last_stage(
    backbone: nn.Module, run: PlainRun, names: list[str]
) -> bool:
    """Whether modules hold as much of a network as a last stage may."""
    weights = count_weights(backbone, names) / count_weights(backbone, [''])
    operations = share_of_operations(run, names)
    return (
        WEIGHTS[0] <= weights <= WEIGHTS[1]
        and OPERATIONS[0] <= operations <= OPERATIONS[1]
    )
