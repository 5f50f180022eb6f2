"""Finds image files in a folder, and checks them before they are decoded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2
from torchvision.datasets.folder import IMG_EXTENSIONS

#: The largest image that is decoded, in pixels: 13377 x 13377. It is the
#: bound from which Pillow takes an image for a decompression bomb.
MAX_PIXELS = 178_956_970

# Never more than these: for some formats Pillow starts other programs.
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')


class UnreadableImageError(ValueError):
    """A file cannot be used as an image.

    Args:
        path: The file.
        reason: Why, in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f'{printable(path)}: {reason}')
        self.path = str(path)
        self.reason = reason


def printable(text: str | Path) -> str:
    r"""Escapes what could break or forge the lines of a terminal.

    Args:
        text: A name from outside. Line breaks, control and direction
            characters and bytes that are not UTF-8 are escaped, letters of
            any script are not.

    Returns:
        str: Text for one line.

    Examples:
        >>> printable('Zürich' + chr(10) + '.jpg')
        'Zürich\\n.jpg'
    """
    return ''.join(
        char
        if char.isprintable()
        else char.encode('unicode_escape').decode('ascii')
        for char in str(text)
    )


def find_images(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[Path], list[UnreadableImageError]]:
    """Lists the images of a folder and of the folders in it.

    A file is an image by its extension, one of torchvision's. Nothing
    outside the folder is touched: links that point out of it are not
    followed, nor are links to folders within, whose files are found anyway.

    Args:
        folder: The folder.
        leave_out: A folder in it that is passed over.

    Returns:
        tuple: The images, sorted by path; and an error for each link that
        points out, each image name that is no regular file, and each folder
        that cannot be listed.
    """
    root = os.path.realpath(folder)
    passed_over = None if leave_out is None else os.path.realpath(leave_out)
    images: list[Path] = []
    skipped: list[UnreadableImageError] = []
    # Not os.walk, which recurses: a folder may be thousands of levels deep.
    pending = [str(folder)]
    while pending:
        place = pending.pop()
        if os.path.realpath(place) == passed_over:
            continue
        try:
            with os.scandir(place) as listing:
                entries = list(listing)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            skipped.append(UnreadableImageError(place, reason))
            continue
        for entry in entries:
            is_image = entry.name.lower().endswith(IMG_EXTENSIONS)
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.is_symlink() and _points_out(entry, root):
                if is_image or os.path.isdir(entry.path):
                    reason = 'a link that points out of the folder'
                    skipped.append(UnreadableImageError(entry.path, reason))
            elif is_image and not os.path.isdir(entry.path):
                if os.path.isfile(entry.path):
                    images.append(Path(entry.path))
                else:
                    skipped.append(
                        UnreadableImageError(entry.path, 'not a regular file')
                    )
    return sorted(images), sorted(skipped, key=lambda error: error.path)


def check_image(path: str | Path) -> None:
    """Checks that a file is a whole image of a size that can be decoded.

    Decoders return part of a truncated picture, in some versions without a
    word; and a few bytes can ask for any amount of memory. JPEG is read at
    an eighth of its size here, which costs a fraction of its decoding.

    Args:
        path: A local file.

    Raises:
        UnreadableImageError: It is missing, empty, truncated, no image, or
            has more than :data:`MAX_PIXELS` pixels.
    """
    if not os.path.isfile(path):
        raise UnreadableImageError(path, 'no such file')
    if os.path.getsize(path) == 0:
        raise UnreadableImageError(path, 'the file is empty')
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            _check_content(file)
    except (UnidentifiedImageError, SyntaxError) as error:
        reason = f'not an image, or not one of {", ".join(FORMATS)}'
        raise UnreadableImageError(path, reason) from error
    except Image.DecompressionBombError as error:
        reason = f'the image has more than {MAX_PIXELS} pixels'
        raise UnreadableImageError(path, reason) from error
    # Parsers meet broken content with errors of every kind.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error)) from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, safe to print."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _points_out(entry: os.DirEntry, root: str) -> bool:
    target = os.path.realpath(entry.path)
    return os.path.commonpath([root, target]) != root


def _check_content(file: BinaryIO) -> None:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        # Pillow knows no TIFF of three 16-bit channels; OpenCV does.
        _check_size(*_tiff_size(file))
        return
    with image:
        _check_size(*image.size)
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
