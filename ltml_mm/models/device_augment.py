"""Augments a batch on the model's device, as its samples drew."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from ltml_mm.datasets.transforms import Distortion, distort


@torch.compiler.disable  # Draws differ: each batch would be compiled anew.
def augment(images: Tensor, samples: Sequence[DataSample]) -> Tensor:
    """Does what the transforms with ``on_device=True`` drew.

    Each image depends on its own draw alone, so no result depends on the
    workers or on the other images of a batch. Distorts first, then mirrors;
    the order makes no difference, since a distortion acts on each pixel by
    itself. On a CPU the images are those of the transforms bitwise. A GPU
    computes the same formulas in batches, within one level of 255.

    Args:
        images: uint8 BGR (N, 3, H, W).
        samples: Their samples, with ``distortion`` or ``mirror`` in the
            metainfo, or neither.

    Returns:
        Tensor: Whole numbers from 0 to 255 of that shape, on that device;
        uint8 on a CPU, float32 on a GPU.
    """
    drawn = [sample.get('distortion') for sample in samples]
    if any(drawn):
        settings = [
            Distortion() if d is None else Distortion(*d) for d in drawn
        ]
        if images.device.type == 'cpu':
            images = _distort_each(images, settings)
        else:
            images = distort_batch(images, settings)
    mirrored = [bool(sample.get('mirror')) for sample in samples]
    if any(mirrored):
        chosen = torch.tensor(mirrored).view(-1, 1, 1, 1)
        chosen = chosen.to(images.device, non_blocking=True)
        images = torch.where(chosen, images.flip(-1), images)
    return images


def _distort_each(images: Tensor, settings: Sequence[Distortion]) -> Tensor:
    # Batched, the same steps take several times as long on a CPU: their
    # intermediate results do not fit into its caches.
    result = np.empty(images.shape, np.uint8)
    for planes, image, drawn in zip(result, images, settings, strict=True):
        cv2.split(distort(cv2.merge([*image.numpy()]), drawn), [*planes])
    return torch.from_numpy(result)


def distort_batch(images: Tensor, settings: Sequence[Distortion]) -> Tensor:
    """Distorts the colours of BGR images (N, 3, H, W), 0 to 255.

    :func:`~ltml_mm.datasets.transforms.distort` with the conversions to HSV
    and back in one: a channel is V - C max(0, min(k, 4 - k, 1)), with the
    value V, the chroma C and k sixths of a turn from the hue. Rounded once,
    half to even, float32.
    """
    table = torch.tensor(settings, dtype=torch.float32)
    table = table.to(images.device, non_blocking=True)[..., None, None, None]
    brightness, before, saturation, hue, after = table.unbind(1)
    x = ((images.float() + brightness) * before).clamp(0, 255)
    blue, green, red = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    # In sixths of a turn; grey has the hue 0.
    sixth = torch.where(
        value == red,
        green - blue,
        torch.where(
            value == green, blue - red + 2 * chroma, red - green + 4 * chroma
        ),
    ) / chroma.clamp_min(torch.finfo(torch.float32).tiny)
    sixth = sixth + hue[:, 0] / 60
    # The saturation, chroma / value, is capped at 1.
    chroma = torch.minimum(chroma * saturation[:, 0], value)
    turns = torch.arange(1.0, 6.0, 2.0, device=x.device).view(3, 1, 1)
    k = (sixth[:, None] + turns) % 6
    bgr = value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(
        0, 1
    )
    return (bgr * after).round().clamp(0, 255)
