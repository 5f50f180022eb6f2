"""Draws predictions with MMPretrain's visualizer."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from PIL import Image

from ltml_mm.datasets.images import printable

#: Bounds of a picture's shorter and longer side: words must fit in.
MIN_SIDE, MAX_SIDE = 224, 2048
#: The predicted classes that a picture has room for.
MAX_LABELS = 15


def draw_prediction(
    image: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float],
    predicted: Sequence[int],
    truth: Sequence[int] | None = None,
) -> Image.Image:
    """Writes the predicted classes and their scores on an image.

    Args:
        image: RGB, uint8 of shape (H, W, 3).
        names: The K class names.
        scores: The K scores.
        predicted: Indices of the predicted classes; the :data:`MAX_LABELS`
            with the highest scores are written.
        truth: Indices of the true classes, where they are known.

    Returns:
        PIL.Image.Image: The picture, a small image enlarged and a large one
        reduced, see :data:`MIN_SIDE` and :data:`MAX_SIDE`.
    """
    height, width = image.shape[:2]
    scale = max(1, MIN_SIDE / min(height, width))
    scale = min(scale, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size)
    best = sorted(predicted, key=lambda k: -scores[k])[:MAX_LABELS]
    sample = DataSample().set_pred_score(torch.tensor(scores))
    sample.set_pred_label(torch.tensor(best, dtype=torch.long))
    if truth is not None:
        sample.set_gt_label(torch.tensor(truth, dtype=torch.long))
    drawn = UniversalVisualizer().visualize_cls(
        np.asarray(resized),
        sample,
        [printable(name) for name in names],
        text_cfg=dict(parse_math=False),  # a dollar sign is no formula
    )
    return Image.fromarray(drawn)


def encode_picture(picture: Image.Image, name: str) -> bytes:
    """Encodes a picture in the format that its name's extension names."""
    buffer = BytesIO()
    kind = picture_format(name)
    options: dict[str, Any] = {'quality': 92} if kind == 'JPEG' else {}
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_format(name: str) -> str | None:
    """Returns Pillow's format for a name, None where there is none."""
    # Not pathlib's suffix: ".png" is a name with an extension here.
    suffix = f'.{name.rpartition(".")[2].lower()}'
    kind = Image.registered_extensions().get(suffix)
    return kind if kind in Image.SAVE else None
