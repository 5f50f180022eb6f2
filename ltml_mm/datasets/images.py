"""Checks image files before they are decoded, and loads them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2

from ltml_mm.datasets.decoded_cache import DecodedCache, file_state

#: Pillow's bound between an image and a decompression bomb, 13377 x 13377.
MAX_PIXELS = 178_956_970

# Never more than these: for some formats Pillow starts other programs.
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')

#: What a folder is searched for, in lower case. OpenCV reads a GIF, its
#: first picture, from 4.11 on.
EXTENSIONS = (
    '.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff',
    '.webp',
)  # fmt: skip

# The last bytes of a whole file.
ENDS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xae\x42\x60\x82'}


class UnreadableImageError(ValueError):
    """A file cannot be used as an image.

    Args:
        path: The file.
        reason: Why. Without one ``path`` is the whole message: so torch
            makes the error of a data worker anew.
    """

    def __init__(self, path: str | Path, reason: str = '') -> None:
        message = f'{printable(path)}: {reason}' if reason else str(path)
        super().__init__(message)
        self.path = str(path)
        self.reason = reason


def printable(text: str | Path) -> str:
    r"""Escapes what could break or forge the lines of a terminal.

    Line breaks, control and direction characters and bytes that are not
    UTF-8 are escaped, letters of any script are not.

    Examples:
        >>> printable('Zürich' + chr(10) + '.jpg')
        'Zürich\\n.jpg'
    """
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode()
        for c in str(text)
    )


def check_image(path: str | Path, decode: bool = True) -> None:
    """Checks that a file is a whole image of a size that can be decoded.

    Decoders may return part of a truncated picture without a word; and a few
    bytes can ask for any amount of memory. With ``decode`` a file that ends
    as its format does is decoded, too, which costs some fifty times the rest;
    JPEG at an eighth of its size.

    Raises:
        UnreadableImageError: It is missing, empty, truncated, no image, or
            has more than :data:`MAX_PIXELS` pixels.
    """
    if not os.path.isfile(path):
        reason = 'is a folder' if os.path.isdir(path) else 'no such file'
        if '://' in str(path):
            reason = 'a URL; download the file first'
        raise UnreadableImageError(path, reason)
    if os.path.getsize(path) == 0:
        raise UnreadableImageError(path, 'the file is empty')
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            _check_content(file, decode)
    # Parsers meet broken content with errors of every kind.
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, (UnidentifiedImageError, SyntaxError)):
            reason = f'not an image, or not one of {", ".join(FORMATS)}'
        if isinstance(error, Image.DecompressionBombError):
            reason = f'the image has more than {MAX_PIXELS} pixels'
        raise UnreadableImageError(path, reason) from error


def load_image(
    load: Callable[[dict], dict | None], results: dict
) -> dict[str, Any]:
    """Loads ``img_path`` by a transform, with one error for all failures.

    Raises:
        UnreadableImageError: It failed; names the file and says why.
    """
    path = results['img_path']
    try:
        loaded = load(results)
    except UnreadableImageError:
        raise
    # A decoder meets broken content with errors of every kind.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error)) from error
    if loaded is None:
        raise UnreadableImageError(path, 'cannot be decoded')
    return loaded


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, safe to print."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _check_content(file: BinaryIO, decode: bool) -> None:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        # Pillow knows no TIFF of three 16-bit channels; OpenCV does.
        _check_size(*_tiff_size(file))
        return
    with image:
        # The size before a pixel is decoded: it stands in the header.
        _check_size(*image.size)
        position = file.tell()
        end = ENDS.get(image.format or '')
        file.seek(-len(end or b''), os.SEEK_END)
        if not decode and file.read() == end:
            return
        file.seek(position)
        image.draft(None, (1, 1))
        image.load()


def _tiff_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(0)
    try:
        directory = ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        return directory[IMAGEWIDTH], directory[IMAGELENGTH]
    except Exception as error:
        raise UnidentifiedImageError from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile`` with one error for all that can go wrong.

    A local file that is missing, empty, truncated, no image or larger than
    :data:`~ltml_mm.datasets.images.MAX_PIXELS` is refused before it is
    decoded; the stock transform takes the upper part of a truncated JPEG for
    the image. No image is passed over: ``ignore_empty`` has no effect.

    Where its dataset has set a ``cache`` (``image_cache`` of
    :class:`LongTailMultiLabelDataset`), the pixels come from there, and an
    image that it lacks is added.

    Required key: ``img_path``. Added keys: ``img``, BGR uint8 (H, W, 3),
    rotated as EXIF says; ``img_shape`` and ``ori_shape``.

    Raises:
        UnreadableImageError: The file cannot be used; names it and says why.
    """

    #: Decoded images, set by the dataset.
    cache: DecodedCache | None = None

    def transform(self, results: dict) -> dict:
        """Loads ``results['img_path']``."""
        if self.cache is None:
            return self._decode(results)
        path = results['img_path']
        pixels = self.cache.read(path)
        if pixels is None:
            # The state from before: the file may change meanwhile.
            state = file_state(path) if os.path.isfile(path) else None
            results = self._decode(results)
            if state is not None:
                self.cache.write(path, state, results['img'])
            return results
        results['img'] = pixels
        results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
        return results

    @property
    def decoding(self) -> tuple | None:
        """What shapes the pixels of a local file, None where more does."""
        if self.backend_args or self.file_client_args or self.to_float32:
            return None
        return type(self).__qualname__, self.color_type, self.imdecode_backend

    def _decode(self, results: dict) -> dict:
        path = results['img_path']
        if self.backend_args is None and '://' not in path:
            check_image(path, decode=False)
        return load_image(super().transform, results)
