"""What a plain backbone does, seen by running it on random images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ltml_mm.models.fork.branches import leaves, versions
from ltml_mm.models.parts import image_shape, is_map, run


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
