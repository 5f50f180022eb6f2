"""Finds the last stage of a backbone from runs of it, not forked yet."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ltml_mm.models.fork.branches import leaves, versions
from ltml_mm.models.parts import image_shape, is_map, run

#: The share of a plain transformer's blocks that counts as its last stage.
VIT_SHARE = 6
#: With more of its weights, and most of its operations, at the last
#: resolution a network keeps its one.
CONSTANT = 0.9
#: What a last stage may hold of a network's weights and of its operations.
WEIGHTS = (0.02, 0.98)
OPERATIONS = (0.002, 0.7)


class PlainRun:
    """The runs of a backbone, not forked yet, on one image and on two.

    Its modes, weights and buffers stay as they are.

    Args:
        backbone: Any backbone.

    Attributes:
        images: Random images (2, C, H, W).
        features: What the backbone returns for the first of them.
        both: What it returns for both.
        is_function: Whether its output for an image depends on that image
            alone; only then can another run be compared with this one.
        tokens: The positions ahead of and behind each call of a module, by
            its name, in the order in which the modules ran.
        callers: The module inside whose call a module runs first, ``''`` for
            the backbone itself.
        flops: The floating-point operations of each module for one image,
            and of all under ``''``: matrix products and convolutions.
        lengths: See :class:`ForkState`.
        in_place: See :class:`ForkState`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        shape = image_shape(backbone)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(2, *shape, generator=generator)
        self.tokens: dict[str, list[int]] = {}
        self.callers: dict[str, str] = {}
        self.in_place: set[str] = set()
        self._stack = ['']
        self._sizes: list[dict[Any, list[int]]] = [{}, {}]
        counter = FlopCounterMode(display=False)
        # The counter follows gradients, which no parameter may ask for.
        learning = [p for p in backbone.parameters() if p.requires_grad]
        try:
            backbone.requires_grad_(False)
            with counter, warnings.catch_warnings():
                warnings.simplefilter('ignore')  # of modules that run twice
                self.features = self._run(backbone, 1)
        finally:
            for parameter in learning:
                parameter.requires_grad = True
        self.flops = {
            name.partition('.')[2]: sum(operations.values())
            for name, operations in counter.get_flop_counts().items()
            if name != 'Global'
        }
        self.both = self._run(backbone, 2)
        one, two = self._sizes
        self.lengths = {
            key: [
                n if m == 2 * n else -n if m == n else 0
                for n, m in zip(one[key], two[key], strict=True)
            ]
            for key in one.keys() & two.keys()
        }
        first = [v[:1] if _is_batch(v) else v for v in leaves(self.both)]
        self.is_function = is_close(first, leaves(self.features))

    def _run(self, backbone: nn.Module, number: int) -> Any:
        hooks = []
        for name, module in [*backbone.named_modules()][1:]:
            before, after = self._watch(name, number)
            hooks.append(
                module.register_forward_pre_hook(before, with_kwargs=True)
            )
            hooks.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            return run(backbone, self.images[:number])
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, name: str, number: int) -> tuple[Callable, Callable]:
        seen: list[list[int]] = []

        def note(side: str, value: Any) -> None:
            values = leaves(value)
            key = name, side, len(values)
            sizes = [len(v) if _is_batch(v) else 0 for v in values]
            self._sizes[number - 1].setdefault(key, sizes)
            if number == 1:
                tokens = _count_tokens(values, self.images.shape[2:])
                self.tokens.setdefault(name, []).append(tokens)

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self.callers.setdefault(name, self._stack[-1])
            self._stack.append(name)
            seen.append(versions((args, kwargs)))
            note('in', (args, kwargs))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._stack.pop()
            if seen.pop() != versions((args, kwargs)):
                self.in_place.add(name)
            note('out', output)

        return before, after


def is_close(
    found: list[Any], expected: list[Any], tolerance: float = 1e-3
) -> bool:
    """Compares features, with a tolerance relative to the largest."""
    for own, other in zip(found, expected, strict=True):
        if isinstance(other, Tensor):
            if own.shape != other.shape:
                return False
            scale = other.abs().max().item() if other.numel() else 0
            if not torch.allclose(
                own, other, rtol=0, atol=tolerance * scale, equal_nan=True
            ):
                return False
    return True


def _is_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _count_tokens(values: list[Any], image: torch.Size) -> int:
    value = next((v for v in values if isinstance(v, Tensor)), None)
    if value is None or value.dim() < 3:
        return 1
    # (N, L, C), (N, C, H, W) or (N, H, W, C); windows of these are square.
    last = is_map(value.shape[1:3], image)
    square = value.shape[-2] == value.shape[-1]
    maps = value.dim() == 4 and (
        is_map(value.shape[2:], image) or (square and not last)
    )
    return value.shape[2:].numel() if maps else value.shape[1:-1].numel()


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
