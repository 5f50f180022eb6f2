"""Annotated pictures: an image with its predicted classes beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ltml_mm.datasets.images import printable

MAX_SIDE = 2048
MAX_LINES = 20

_COLOURS = {'head': '#1f5fa8', 'medium': '#b35900', 'tail': '#a3195b'}
_OTHER = '#202020'
_JPEG: dict[str, Any] = {'quality': 92}


def annotate(
    image: np.ndarray, labels: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """Writes the predicted classes beneath an image.

    Args:
        image: RGB, uint8 of shape (H, W, 3).
        labels: ``name``, ``score`` and ``group`` of each class, the group
            None where it is not known; the first ``MAX_LINES`` are written,
            coloured by group.

    Returns:
        PIL.Image.Image: The picture, the image's longer side scaled down to
        ``MAX_SIDE`` where it is larger.
    """
    photo = Image.fromarray(np.ascontiguousarray(image))
    photo.thumbnail((MAX_SIDE, MAX_SIDE))
    size = min(max(photo.width // 30, 14), 40)
    font = ImageFont.truetype(_font_path(), size)
    lines = _lines(labels)
    margin = size // 2
    widest = max(font.getlength(text) for text, _ in lines)
    width = max(photo.width, int(widest) + 2 * margin)
    step = size + margin
    height = photo.height + len(lines) * step + margin
    picture = Image.new('RGB', (width, height), 'white')
    picture.paste(photo)
    draw = ImageDraw.Draw(picture)
    for row, (text, colour) in enumerate(lines):
        top = photo.height + margin + row * step
        draw.text((margin, top), text, fill=colour, font=font)
    return picture


def picture_name(relative: str) -> str:
    """Names the annotated picture of an image.

    Different images have different names, since these mirror the images'
    own, and each is in the format of its extension.

    Args:
        relative: The image's path relative to the folder of all images.

    Returns:
        str: A relative path; ``.png`` is added to the name of a file whose
        extension is not that of a format.
    """
    return relative if _format(relative) else f'{relative}.png'


def encode(picture: Image.Image, name: str) -> bytes:
    """Encodes a picture in the format that its name asks for.

    Args:
        picture: The picture.
        name: A name from :func:`picture_name`.

    Returns:
        bytes: The content of the file.
    """
    buffer = BytesIO()
    kind = _format(name)
    picture.save(buffer, kind, **(_JPEG if kind == 'JPEG' else {}))
    return buffer.getvalue()


def output_path(root: Path, name: str) -> Path:
    """Joins an output folder and a name in it.

    Args:
        root: The folder.
        name: A relative path.

    Returns:
        Path: Where to write.

    Raises:
        ValueError: A link in the folder, or the name, leads out of it.
    """
    path = root / name
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f'{printable(path)} lies outside {root}: a link leads there; '
            'give another --out'
        )
    return path


def _format(name: str) -> str | None:
    # Not pathlib's suffix: ".png" is a name with an extension here.
    suffix = f'.{name.rpartition(".")[2].lower()}'
    kind = Image.registered_extensions().get(suffix)
    return kind if kind in Image.SAVE else None


def _font_path() -> str:
    folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
    return str(folder / 'DejaVuSans.ttf')


def _lines(labels: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    lines = [
        (
            f'{label["score"]:.2f}  {printable(label["name"])}'
            + (f'  ({label["group"]})' if label['group'] else ''),
            _COLOURS.get(label['group'], _OTHER),
        )
        for label in labels[:MAX_LINES]
    ]
    hidden = len(labels) - len(lines)
    if hidden > 0:
        lines.append((f'and {hidden} more', _OTHER))
    return lines or [('no class above the threshold', _OTHER)]
