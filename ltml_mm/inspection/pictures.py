"""Draws predictions on images, in fonts that have the letters of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO

import numpy as np
from matplotlib.font_manager import findfont, findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from ltml_mm.datasets.images import printable

#: Bounds of a picture's shorter and longer side: words must fit in, and the
#: picture into memory.
MIN_SIDE, MAX_SIDE = 224, 8192
#: The predicted classes, and the missed ones, that a picture has room for.
MAX_LABELS, MAX_MISSED = 15, 5
#: Text colours, of Okabe and Ito's palette: told apart with any colour vision.
PLAIN, RIGHT, WRONG, MISSED = '#ffffff', '#5fd3b0', '#ff9d5c', '#f0e442'

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
