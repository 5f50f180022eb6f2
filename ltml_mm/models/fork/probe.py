"""Finds out what features a network gives, by running it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: The side of the probing image where the backbone names none, in pixels.
PROBE_SIDE = 224


@torch.no_grad()
def probe_features(backbone: nn.Module, neck: nn.Module | None = None) -> Any:
    """Runs a backbone, and a neck behind it, on one blank image.

    Args:
        backbone: A backbone of MMPretrain.
        neck: A neck for its features.

    Returns:
        Any: The features for a batch of one, a tensor or a tuple of them.

    Raises:
        ValueError: They do not run on an image of the backbone's size.
    """
    height, width = _image_size(backbone)
    image = torch.zeros(1, 3, height, width)
    network = nn.Sequential(backbone, *([] if neck is None else [neck]))
    with _eval_mode(network):
        try:
            return network(image)
        except (RuntimeError, AssertionError) as error:
            kinds = ' and '.join(type(module).__name__ for module in network)
            raise ValueError(
                f'{kinds} do not run on a blank image of {height} x {width}: '
                f'{error}'
            ) from error


def last_shape(features: Any) -> tuple[int, ...]:
    """Returns the shape of the last feature.

    Args:
        features: A tensor, or a list or tuple of them.

    Returns:
        tuple: Its shape, the batch first.
    """
    while not isinstance(features, Tensor):
        features = features[-1]
    return tuple(features.shape)


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _image_size(backbone: nn.Module) -> tuple[int, int]:
    size: Any = getattr(backbone, 'img_size', None)
    size = size or getattr(backbone, 'img_resolution', None)
    for module in backbone.modules():  # timm keeps it in the patch embedding
        size = size or getattr(module, 'img_size', None)
    size = size or PROBE_SIDE
    if isinstance(size, Sequence):
        return int(size[0]), int(size[-1])
    return int(size), int(size)
