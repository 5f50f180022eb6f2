"""Small pictures inside a page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

#: Longest side in pixels and quality of WebP, the best first.
LADDER = (
    (160, 75), (144, 65), (128, 55), (112, 50), (96, 45), (80, 40), (64, 30),
    (48, 20),
)  # fmt: skip
#: The colours of a map, and how strongly the largest value covers.
LEVELS, COVER = 32, 175


def shrink(image: Tensor, side: int = LADDER[0][0]) -> np.ndarray:
    """Reduces what a pipeline gives, BGR (C, H, W), to RGB (h, w, 3)."""
    pixels = image.cpu().numpy().clip(0, 255).astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0)[..., ::-1]
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, 2)
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    picture.thumbnail((side, side))
    return np.asarray(picture)


def data_uri(pixels: np.ndarray, side: int, quality: int) -> str:
    """Encodes RGB pixels (h, w, 3) as WebP in a data URI."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return _uri(picture, 'WEBP', quality=quality)


def fit(pictures: Mapping[Any, np.ndarray], budget: int) -> dict[Any, str]:
    """Encodes RGB pictures, uint8 (h, w, 3), as well as a budget allows.

    Returns:
        dict: The data URIs, of ``budget`` bytes together; those of the last
        pictures are missing where even the smallest do not fit.
    """
    uris: dict[Any, str] = {}
    for side, quality in LADDER:
        uris = {k: data_uri(p, side, quality) for k, p in pictures.items()}
        if sum(map(len, uris.values())) <= budget:
            return uris
    kept = {}
    for key, uri in uris.items():
        budget -= len(uri)
        if budget < 0:
            break
        kept[key] = uri
    return kept


def heat_uri(values: np.ndarray) -> str:
    """Encodes a map from 0 to 1, (h, w), as a PNG to lay over a picture.

    The colours are few and the pixels those of the map, which a browser
    smooths: some 300 bytes.
    """
    levels = (values.clip(0, 1) * (LEVELS - 1)).round().astype(np.uint8)
    picture = Image.frombytes('P', levels.shape[::-1], levels.tobytes())
    colours = colormaps['turbo'](np.linspace(0.1, 1, LEVELS))[:, :3]
    picture.putpalette((colours * 255).round().astype(np.uint8).tobytes())
    alpha = np.linspace(0, COVER, LEVELS).round().astype(np.uint8)
    return _uri(picture, 'PNG', transparency=alpha.tobytes(), bits=5)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    text = base64.b64encode(buffer.getvalue()).decode('ascii')
    return f'data:image/{kind.lower()};base64,{text}'
