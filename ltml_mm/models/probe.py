"""Finds out what features a backbone gives, by running it once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: The side of the probing image where the backbone names none, in pixels.
PROBE_SIDE = 224


@torch.no_grad()
def feature_shape(backbone: nn.Module) -> tuple[int, ...]:
    """Runs the backbone on one blank image.

    Args:
        backbone: A backbone of MMPretrain.

    Returns:
        tuple: The shape of its last feature for a batch of one: (1, C) or
        (1, C, H, W).

    Raises:
        ValueError: The backbone does not run on an image of its size, or its
            last feature has another number of axes.
    """
    height, width = _image_size(backbone)
    training = {m: m.training for m in backbone.modules()}
    backbone.eval()
    try:
        output = backbone(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'{type(backbone).__name__} does not run on a blank image of '
            f'{height} x {width}: {error}'
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    feature = output
    while not isinstance(feature, Tensor):
        feature = feature[-1]
    if feature.ndim not in (2, 4):
        raise ValueError(
            f'{type(backbone).__name__} gives a feature of shape '
            f'{tuple(feature.shape)}; it must be (N, C) or (N, C, H, W), set '
            'out_type of a transformer accordingly'
        )
    return tuple(feature.shape)


def _image_size(backbone: nn.Module) -> tuple[int, int]:
    size: Any = getattr(backbone, 'img_size', None)
    size = size or getattr(backbone, 'img_resolution', None)
    for module in backbone.modules():  # timm keeps it in the patch embedding
        size = size or getattr(module, 'img_size', None)
    size = size or PROBE_SIDE
    if isinstance(size, Sequence):
        return int(size[0]), int(size[-1])
    return int(size), int(size)
