"""Images with their labels, between the readers and the written files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import LabelTable
from ltml_mm.datasets.images import UnreadableImageError, check_image

MAX_SHOWN = 10


class Problems(dict[str, list[str]]):
    """Messages by kind, collected so that one run tells about all of them."""

    def add(self, kind: str, place: str, message: str) -> None:
        """Adds a message about a place, such as a file and its line."""
        self.setdefault(kind, []).append(f'{place}: {message}')

    def check(self) -> None:
        """Raises a ValueError with the first ten of each kind, if any."""
        lines = []
        for kind, messages in self.items():
            more = len(messages) > MAX_SHOWN
            first = f', the first {MAX_SHOWN}' if more else ''
            lines.append(f'{kind}: {len(messages)}{first}')
            lines.extend(f'  {message}' for message in messages[:MAX_SHOWN])
        if lines:
            raise ValueError('\n'.join(lines))


class Example(NamedTuple):
    """An image and its classes.

    Attributes:
        path: The image, relative to the root of the images, or absolute.
        names: Names of its classes.
        place: The file, with line or entry, that says so, for messages.
        others: File names below the root to try where ``path`` is missing.
    """

    path: str
    names: tuple[str, ...]
    place: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSet:
    """Images as a source lists them or, after :func:`resolve`, checked.

    Attributes:
        examples: The N images in the order of the source.
        classes: The K classes in the order of their labels; before the
            check empty where the source gives none.
        root: The folder to which relative image paths refer.
        source: The file or folder that was read, for messages.
    """

    examples: list[Example]
    classes: tuple[str, ...]
    root: str
    source: str

    def labels(self) -> list[list[int]]:
        """Returns the class indices of every image, ascending."""
        index = {name: k for k, name in enumerate(self.classes)}
        return [sorted(index[n] for n in e.names) for e in self.examples]

    def matrix(self) -> np.ndarray:
        """Returns the labels as an array, bool (N, K)."""
        return self._table().matrix(len(self.classes))

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Returns some of the images, in the order of ``indices``."""
        return replace(self, examples=[self.examples[i] for i in indices])

    def below(self, root: str, folder: str) -> ImageSet:
        """Returns the images as those of a folder in another root."""
        examples = [
            Example(f'{folder}/{path}', names, place)
            for path, names, place, _ in self.examples
        ]
        return replace(self, examples=examples, root=root)

    def statistics(self) -> ClassStatistics:
        """Counts the images of every class."""
        return self._table().statistics(len(self.classes))

    def _table(self) -> LabelTable:
        return LabelTable.from_lists(self.labels())


def resolve(
    images: ImageSet,
    root: str | None = None,
    classes: Iterable[str] = (),
    allow_outside: bool = False,
) -> ImageSet:
    """Checks classes and paths.

    Args:
        images: The images of a reader.
        root: The folder of the images. Defaults to the source's.
        classes: The classes in the order of their labels. Defaults to the
            source's, or else to all names, sorted.
        allow_outside: Whether a path may leave the root.

    Returns:
        ImageSet: The images, their paths relative to the root.

    Warns:
        UserWarning: Images were found under another name.

    Raises:
        ValueError: No images or classes; a class name is empty, repeats or
            is not known; a path is empty, unusable, repeats or leaves the
            root.
    """
    root = images.root if root is None else root
    problems = Problems()
    if not images.examples:
        problems.add('no images', images.source, 'holds no image')
    classes = tuple(classes) or images.classes
    places = dict.fromkeys(classes, images.source)
    if not classes:
        for example in images.examples:
            for name in example.names:
                places.setdefault(name, example.place)
        classes = tuple(sorted(places))
    if not classes:
        problems.add('no classes', images.source, 'names no class')
    check_classes(classes, [places[name] for name in classes], problems)
    known = set(classes)
    examples, renamed = [], []
    first: dict[str, str] = {}
    for path, names, place, others in images.examples:
        path, fault = _normalise(path, root, allow_outside)
        if others and not os.path.isfile(os.path.join(root, path)):
            for other in others:
                if os.path.isfile(os.path.join(root, other)):
                    renamed.append(f'{place}: {other} in place of {path}')
                    path, fault = other, None
                    break
        if fault:
            problems.add('bad image paths', place, fault)
        elif first.setdefault(path, place) != place:
            fault = f'{path} stands at {first[path]}, too'
            problems.add('images that repeat', place, fault)
        for name in names:
            if name not in known:
                problems.add('unknown classes', place, repr(name))
        examples.append(Example(path, names, place))
    problems.check()
    if renamed:
        warnings.warn(
            f'{len(renamed)} images are not where the source says and were '
            f'found under another name, the first: {renamed[0]}',
            stacklevel=2,
        )
    return ImageSet(examples, classes, root, images.source)


def check_classes(
    classes: Iterable[str], places: Iterable[str], problems: Problems
) -> None:
    """Notes class names, each with a place, that are unusable or repeat."""
    seen = set()
    for name, place in zip(classes, places, strict=True):
        if not name.strip() or not _is_plain(name):
            fault = f'{name!r} is empty or cannot be written'
            problems.add('bad class names', place, fault)
        if name in seen:
            problems.add('class names that repeat', place, repr(name))
        seen.add(name)


def check_files(
    train: ImageSet, test: ImageSet | None, allow_outside: bool, decode: bool
) -> None:
    """Checks the image files.

    Args:
        train: The images to train on, resolved.
        test: Those to test on, if any.
        allow_outside: Whether links may leave the root.
        decode: Whether to decode every image, in parallel.

    Raises:
        ValueError: Images are in both sets, are missing, are reached through
            a link that leaves the root, or do not decode.
    """
    root = os.path.join(os.path.realpath(train.root), '')
    problems = Problems()
    places: dict[str, str] = {}
    for path, _, place, _ in train.examples + (test.examples if test else []):
        file = os.path.join(train.root, path)
        if file in places:
            problems.add('test images that are training images', place, path)
        elif not os.path.isfile(file):
            problems.add('missing images', place, file)
        elif not (allow_outside or os.path.realpath(file).startswith(root)):
            fault = _outside(file, train.root)
            problems.add('images outside the root', place, fault)
        places.setdefault(file, place)
    problems.check()
    if decode:
        # Threads that silence warnings leave the filters in any state.
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            faults = pool.map(_decode_fault, places)
            bar = tqdm(faults, 'decode images', len(places))
            for place, fault in zip(places.values(), bar, strict=True):
                if fault:
                    problems.add('images that do not decode', place, fault)
    problems.check()


def _decode_fault(file: str) -> str | None:
    try:
        check_image(file)
    except UnreadableImageError as error:
        return str(error)
    return None


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
    if relative.split(os.sep)[0] == os.pardir:
        if not allow_outside:
            return path, _outside(path, root)
        if os.path.isabs(path):
            return full, None
    return relative.replace(os.sep, '/'), None


def _outside(path: str, root: str) -> str:
    return (
        f'{path} lies outside {root}; pass --allow-outside if you trust the '
        'source'
    )


def _is_plain(text: str) -> bool:
    """Whether a text has no control characters and can be encoded."""
    return not any(
        ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text
    )
