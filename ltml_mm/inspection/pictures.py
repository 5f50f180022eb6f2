"""Draws predictions on images, and small pictures for pages.

Texts are written in fonts that have the letters of their names.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.font_manager import findfont, findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ltml_mm.datasets.images import printable

#: Bounds of a picture's shorter and longer side: words must fit in, and the
#: picture into memory.
MIN_SIDE, MAX_SIDE = 224, 8192
#: The predicted classes, and the missed ones, that a picture has room for.
MAX_LABELS, MAX_MISSED = 15, 5
#: Text colours, of Okabe and Ito's palette: told apart with any colour vision.
PLAIN, RIGHT, WRONG, MISSED = '#ffffff', '#5fd3b0', '#ff9d5c', '#f0e442'

#: Longest side in pixels and quality of WebP, the best first.
LADDER = (
    (160, 75), (144, 65), (128, 55), (112, 50), (96, 45), (80, 40), (64, 30),
    (48, 20),
)  # fmt: skip
#: The colours of a map, and how strongly the largest value covers.
LEVELS, COVER = 32, 175

Font = ImageFont.FreeTypeFont
_sized_font = cache(ImageFont.truetype)


@cache
def _system_fonts() -> list[str]:
    """Lists the fonts of the system, plain ones without serifs first."""

    def order(path: str) -> tuple[bool, bool, bool, str]:
        name = path.lower()
        return 'regular' not in name, 'serif' in name, 'mono' in name, path

    return sorted(findSystemFonts(), key=order)


@cache
def _open_font(path: str) -> FT2Font | None:
    try:
        return FT2Font(path)
    except (OSError, RuntimeError, ValueError):  # not one of FreeType's
        return None


def find_fonts(texts: Iterable[str]) -> tuple[list[str], str]:
    """Finds fonts for texts: DejaVu Sans, and others for what it lacks.

    The others are those of the system, as fontconfig lists them.

    Returns:
        tuple: The files, the first one that has a letter is to write it; and
        the letters that no font has.
    """
    needed = {c for text in texts for c in text if not c.isspace()}
    fonts: list[str] = []

    def take(path: str) -> None:
        font = _open_font(path)
        found = {c for c in needed if font and font.get_char_index(ord(c))}
        if found or not fonts:
            fonts.append(path)
        needed.difference_update(found)

    take(findfont('DejaVu Sans'))
    if needed:
        for path in _system_fonts():
            take(path)
            if not needed:
                break
    return fonts, ''.join(sorted(needed))


def draw_prediction(
    image: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float],
    predicted: Sequence[int],
    truth: Sequence[int] | None = None,
) -> Image.Image:
    """Writes the :data:`MAX_LABELS` best predicted classes on an image.

    It keeps its size, within :data:`MIN_SIDE` and :data:`MAX_SIDE`. With the
    truth each class is marked as right or wrong, and the
    :data:`MAX_MISSED` best classes that were missed follow.

    Args:
        image: RGB, uint8 of shape (H, W, 3).
        names: The K class names.
        scores: The K scores.
        predicted: Indices of the predicted classes.
        truth: Indices of the true classes, where they are known.
    """
    height, width = image.shape[:2]
    scale = max(1, MIN_SIDE / min(height, width))
    scale = min(scale, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(np.ascontiguousarray(image))
    if size != picture.size:
        picture = picture.resize(size)
    best = sorted(predicted, key=lambda k: -scores[k])[:MAX_LABELS]
    marks = {True: ('✓ ', RIGHT), False: ('✗ ', WRONG)}
    lines = []
    for k in best:
        mark, colour = '', PLAIN
        if truth is not None:
            mark, colour = marks[k in truth]
        lines.append((f'{mark}{scores[k]:.2f} {printable(names[k])}', colour))
    missed = sorted({*(truth or ())} - {*predicted}, key=lambda k: -scores[k])
    lines += [
        (f'missed {scores[k]:.2f} {printable(names[k])}', MISSED)
        for k in missed[:MAX_MISSED]
    ]
    return _write_lines(picture, lines) if lines else picture


def _write_lines(
    picture: Image.Image, lines: Sequence[tuple[str, str]]
) -> Image.Image:
    """Writes lines, each in its colour, on a darkened corner."""
    width, height = picture.size
    size = min(width, height) // 24
    size = max(1, min(max(12, size), int(height / 1.4 / len(lines))))
    paths = find_fonts(text for text, _ in lines)[0]
    fonts = [(_open_font(path), _sized_font(path, size)) for path in paths]
    pad, step = size // 3, round(1.3 * size)
    rows = [_runs(text, fonts, width - 2 * pad) for text, _ in lines]
    wide = max(sum(font.getlength(part) for part, font in row) for row in rows)
    box = (0, 0, min(width, int(wide) + 2 * pad), step * len(lines) + pad)
    corner = picture.crop(box)
    picture.paste(Image.blend(corner, Image.new('RGB', corner.size), 0.6), box)
    draw = ImageDraw.Draw(picture)
    for number, (row, (_, colour)) in enumerate(zip(rows, lines, strict=True)):
        x, base = float(pad), step * (number + 1) - size // 4
        for part, font in row:
            draw.text((x, base), part, colour, font, anchor='ls')
            x += font.getlength(part)
    return picture


def _runs(
    text: str, fonts: Sequence[tuple[FT2Font | None, Font]], room: float
) -> list[tuple[str, Font]]:
    """Cuts a text into runs of one font, and at the room that it has."""
    runs: list[tuple[str, Font]] = []
    for letter in text:
        code = ord(letter)
        having = (f for face, f in fonts if face and face.get_char_index(code))
        font = next(having, fonts[0][1])
        room -= font.getlength(letter)
        if room < 0:
            break
        if runs and runs[-1][1] is font:
            runs[-1] = (runs[-1][0] + letter, font)
        else:
            runs.append((letter, font))
    return runs


def encode_picture(picture: Image.Image, name: str) -> bytes:
    """Encodes a picture in the format that its name's extension names."""
    buffer = BytesIO()
    kind = picture_format(name)
    # The default of 6 takes PNG five times as long.
    options = {'compress_level': 1} if kind == 'PNG' else {'quality': 92}
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_format(name: str) -> str | None:
    """Returns Pillow's format for a name, None where there is none."""
    # Not pathlib's suffix: ".png" is a name with an extension here.
    suffix = f'.{name.rpartition(".")[2].lower()}'
    kind = Image.registered_extensions().get(suffix)
    return kind if kind in Image.SAVE else None


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
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    text = base64.b64encode(buffer.getvalue()).decode('ascii')
    return f'data:image/{kind.lower()};base64,{text}'
