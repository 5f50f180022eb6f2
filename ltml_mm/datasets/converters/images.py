"""Checks that images are there, inside the root, and can be decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from PIL import Image
from tqdm import tqdm

from ltml_mm.datasets.converters.errors import Problems
from ltml_mm.datasets.converters.records import ImageSet, outside


def check_images(
    image_set: ImageSet,
    problems: Problems,
    allow_outside: bool = False,
    decode: bool = False,
) -> None:
    """Checks the image files of a set.

    Args:
        image_set: The images.
        problems: Takes the images that are missing, are reached through a
            link that leaves the root, or do not decode, each with the place
            that lists it.
        allow_outside: Whether links may leave the root.
        decode: Whether to decode every image, in parallel.
    """
    root = os.path.realpath(image_set.root)
    files = [os.path.join(image_set.root, path) for path in image_set.paths]
    present = []
    examples = tqdm(image_set.examples, desc='find images')
    for example, file in zip(examples, files, strict=True):
        if not os.path.isfile(file):
            problems.add('missing images', f'{example.place}: {file}')
        elif not allow_outside and not _is_inside(file, root):
            problems.add(
                'images outside the root',
                f'{example.place}: {outside(file, root)}',
            )
        else:
            present.append((example, file))
    if not decode:
        return
    faults = _decode_all([file for _, file in present])
    for (example, file), fault in zip(present, faults, strict=True):
        if fault is not None:
            problems.add(
                'images that do not decode',
                f'{example.place}: {file}: {fault}',
            )


def decode_fault(path: str) -> str | None:
    """Decodes an image and says what is wrong with it, None if nothing."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # decoders raise whatever they like
        return f'{type(error).__name__}: {error}'
    return None


def _decode_all(files: Sequence[str]) -> list[str | None]:
    # Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(decode_fault, files)
        return list(tqdm(results, desc='decode images', total=len(files)))


def _is_inside(file: str, root: str) -> bool:
    """Whether a file stays inside a resolved root, links followed."""
    if os.path.islink(file):
        real = os.path.realpath(file)
    else:
        real = os.path.join(_real_folder(os.path.dirname(file)), '')
    return real.startswith(os.path.join(root, ''))


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
