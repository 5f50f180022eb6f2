"""Reads a folder per label set."""

from __future__ import annotations

import os

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.records import Example, Source

SEPARATOR = '+'
# The formats of MMPretrain's own folder datasets.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def read_folders(path: str) -> Source:
    """Reads a folder whose sub-folders are named after label sets.

    .. code-block:: none

        images
        ├── cat
        │   └── a.jpg
        └── cat+dog
            └── b.jpg

    Hidden files are left aside; anything else that is not an image is an
    error.

    Args:
        path: The folder.

    Returns:
        Source: The images by folder and name; their paths refer to ``path``.

    Raises:
        ConversionError: A file lies where none belongs, is not an image, or
            a folder's name is not a label set.
    """
    problems = Problems()
    examples = []
    for folder in _entries(path):
        if not folder.is_dir():
            problems.add(
                'files outside the label folders',
                f'{folder.path}: belongs in a folder named after its labels',
            )
            continue
        names = tuple(sorted(folder.name.split(SEPARATOR)))
        if '' in names or len(set(names)) != len(names):
            problems.add(
                'folder names that are no label set',
                f'{folder.path}: a label is empty or repeats',
            )
        for file in _entries(folder.path):
            if not file.name.lower().endswith(EXTENSIONS) or file.is_dir():
                problems.add(
                    'entries that are not images',
                    f'{file.path}: not a file in {", ".join(EXTENSIONS)}',
                )
                continue
            examples.append(
                Example(f'{folder.name}/{file.name}', names, file.path)
            )
    problems.check()
    return Source(examples, None, path, path)


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            shown = [e for e in entries if not e.name.startswith('.')]
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}') from error
    return sorted(shown, key=lambda entry: entry.name)
