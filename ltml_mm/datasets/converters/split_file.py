"""Reads lists of image ids."""

from __future__ import annotations

from collections.abc import Sequence

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.text import read_text


def read_ids(path: str, known: Sequence[str] | None = None) -> list[str]:
    """Reads a text file with one image id a line.

    The published splits are such files, although they are named
    ``img_id.pkl``; a real pickle is refused.

    Args:
        path: The file.
        known: The ids that may stand there. Defaults to any that can be a
            file name.

    Returns:
        list[str]: The ids in the order of the file; line i + 1 holds id i.

    Raises:
        ConversionError: The file is not such a list: an id is empty,
            repeats, or is not known; names the lines.
    """
    lines = read_text(path).split('\n')
    if not lines[-1]:  # after the last newline
        lines.pop()
    problems = Problems()
    first: dict[str, int] = {}
    allowed = None if known is None else set(known)
    ids = [line.strip() for line in lines]
    for line, image_id in enumerate(ids, 1):
        place = f'{path}:{line}'
        if not image_id:
            problems.add('empty ids', place)
        elif allowed is not None and image_id not in allowed:
            problems.add('unknown ids', f'{place}: {image_id!r}')
        elif not _is_name(image_id):
            problems.add('bad ids', f'{place}: {image_id!r}')
        elif image_id in first:
            problems.add(
                'ids that repeat',
                f'{place}: {image_id}, first on line {first[image_id]}',
            )
        first.setdefault(image_id, line)
    problems.check()
    if not ids:
        raise ConversionError(f'{path}: the file is empty')
    return ids


def _is_name(image_id: str) -> bool:
    """Whether an id is letters, digits, underscores and hyphens."""
    return all(c.isalnum() or c in '_-' for c in image_id)
