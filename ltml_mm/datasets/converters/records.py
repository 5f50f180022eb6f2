"""What the readers return and the writer takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.converters.errors import Problems
from ltml_mm.datasets.converters.text import EntryLines


@dataclass(frozen=True)
class Example:
    """An image and its classes as a source names them.

    Attributes:
        path: The image, relative to the root of the images, or absolute.
        names: Names of its classes.
        file: The file that says so.
        line: Where it says so, None where ``entry`` tells.
        entry: For JSON, the lines of the file, the name of a list in it and
            an index into that.
        name_lines: The line of each of ``names``, where they differ.
    """

    path: str
    names: tuple[str, ...]
    file: str
    line: int | None = None
    entry: tuple[EntryLines, str, int] | None = None
    name_lines: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """The file and line for messages."""
        if self.entry is not None:
            lines, key, index = self.entry
            return lines.place(key, index)
        return self.file if self.line is None else f'{self.file}:{self.line}'

    def name_place(self, index: int) -> str:
        """The file and line of one of the names."""
        if self.name_lines:
            return f'{self.file}:{self.name_lines[index]}'
        return self.place


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes:
        examples: The images in the order of the source.
        classes: The classes in the order that the source gives them, None
            where it gives none.
        root: The folder to which relative image paths refer.
        path: The file or folder itself, for messages.
    """

    examples: list[Example]
    classes: tuple[str, ...] | None
    root: str
    path: str


@dataclass(frozen=True)
class ImageSet:
    """Checked images: paths relative to ``root``, labels as indices."""

    classes: tuple[str, ...]
    examples: Sequence[Example]
    paths: Sequence[str]
    labels: Sequence[tuple[int, ...]]
    root: str

    def __len__(self) -> int:
        return len(self.paths)

    def matrix(self) -> np.ndarray:
        """Returns the labels as a 0/1 array, uint8 (N, K)."""
        matrix = np.zeros((len(self), len(self.classes)), np.uint8)
        for row, labels in zip(matrix, self.labels, strict=True):
            row[list(labels)] = 1
        return matrix

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Returns some of the images, in the order of ``indices``."""
        chosen = [int(i) for i in indices]
        return ImageSet(
            self.classes,
            [self.examples[i] for i in chosen],
            [self.paths[i] for i in chosen],
            [self.labels[i] for i in chosen],
            self.root,
        )

    def statistics(self) -> ClassStatistics:
        """Counts the images of every class."""
        return ClassStatistics.from_labels(self.labels, len(self.classes))


def resolve(
    source: Source,
    root: str | None = None,
    classes: Sequence[str] | None = None,
    allow_outside: bool = False,
) -> ImageSet:
    """Turns names into indices and checks classes and paths.

    Args:
        source: What a reader found.
        root: The folder of the images. Defaults to the source's.
        classes: The classes in the order of their labels, checked. Defaults
            to the source's, or else to all names, sorted.
        allow_outside: Whether a path may leave the root.

    Returns:
        ImageSet: The images in the order of the source.

    Raises:
        ConversionError: No images or classes; a class name is empty,
            repeats or is not known; a path is empty, unusable, repeats or
            leaves the root.
    """
    root = source.root if root is None else root
    problems = Problems()
    if classes is None:
        classes = _classes(source, problems)
    if not source.examples:
        problems.add('no images', f'{source.path}: holds no image')
    index_of = {name: index for index, name in enumerate(classes)}
    paths = []
    labels = []
    first: dict[str, Example] = {}
    for example in source.examples:
        path, reason = _normalise(example.path, root, allow_outside)
        if reason:
            problems.add('bad image paths', f'{example.place}: {reason}')
        elif path in first:
            problems.add(
                'images that repeat',
                f'{example.place}: {path} stands at {first[path].place}, too',
            )
        first.setdefault(path, example)
        paths.append(path)
        labels.append(_indices(example, index_of, problems))
    problems.check()
    return ImageSet(tuple(classes), source.examples, paths, labels, root)


def check_classes(
    classes: Sequence[str], places: Sequence[str], problems: Problems
) -> None:
    """Checks that class names are not empty, plain text and unique.

    Args:
        classes: The names.
        places: Where each of them stands.
        problems: Takes what is wrong.
    """
    seen = set()
    for name, place in zip(classes, places, strict=True):
        if not name.strip() or not _is_plain(name):
            problems.add(
                'bad class names',
                f'{place}: {name!r} is empty or cannot be written',
            )
        if name in seen:
            problems.add('class names that repeat', f'{place}: {name!r}')
        seen.add(name)


def _classes(source: Source, problems: Problems) -> Sequence[str]:
    """Returns the classes that a source gives or uses, checked."""
    classes: Sequence[str]
    if source.classes is not None:
        classes = source.classes
        places = [source.path] * len(classes)
    else:
        first: dict[str, str] = {}
        for example in source.examples:
            for index, name in enumerate(example.names):
                if name not in first:
                    first[name] = example.name_place(index)
        classes = sorted(first)
        places = [first[name] for name in classes]
    if not classes:
        problems.add('no classes', f'{source.path}: names no class')
    check_classes(classes, places, problems)
    return classes


def _indices(
    example: Example, index_of: dict[str, int], problems: Problems
) -> tuple[int, ...]:
    indices = set()
    for place, name in enumerate(example.names):
        if name in index_of:
            indices.add(index_of[name])
        else:
            problems.add(
                'unknown classes', f'{example.name_place(place)}: {name!r}'
            )
    return tuple(sorted(indices))


def _normalise(
    path: str, root: str, allow_outside: bool
) -> tuple[str, str | None]:
    """Returns the path relative to the root, and what is wrong with it."""
    if not path.strip():
        return path, 'empty image path'
    if not _is_plain(path):
        return path, f'{path!r} cannot be a file name'
    full = os.path.normpath(os.path.join(os.path.abspath(root), path))
    relative = os.path.relpath(full, os.path.abspath(root))
    if relative == os.pardir or relative.startswith(os.pardir + os.sep):
        if not allow_outside:
            return path, outside(path, root)
        if os.path.isabs(path):
            return full, None
    return relative.replace(os.sep, '/'), None


def outside(path: str, root: str) -> str:
    """Words the error of a path that leaves the root."""
    return (
        f'{path} lies outside {root}; pass --allow-outside if you trust the '
        'source'
    )


def _is_plain(text: str) -> bool:
    """Whether a text has no control characters and can be encoded."""
    return not any(
        ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text
    )
