"""Images with their labels, between the readers and the written files."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

MAX_SHOWN = 10
# Control characters, and surrogates, which cannot be encoded.
UNWRITABLE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff]')


class OutputOptions(NamedTuple):
    """The options that all converters share.

    Attributes:
        out: The output folder.
        force: Whether existing output is overwritten.
        check_images: Whether to decode every image, in parallel.
        allow_outside: Whether paths and links may leave the images' folder.
        skip_missing: Whether missing images are left out.
        skip_bad: Whether images that do not decode are left out.
    """

    out: str
    force: bool = False
    check_images: bool = False
    allow_outside: bool = False
    skip_missing: bool = False
    skip_bad: bool = False


class Problems(dict[str, list[str]]):
    """Messages by kind, collected so that one run tells about all of them."""

    def add(self, kind: str, place: str, message: str) -> None:
        """Adds a message about a place, such as a file and its line."""
        self.setdefault(kind, []).append(f'{place}: {message}')

    @contextmanager
    def caught(
        self, kind: str, place: str, *others: type[Exception]
    ) -> Iterator[None]:
        """Adds the first error of a block, a ValueError or one of others."""
        errors: tuple[type[Exception], ...] = (ValueError, *others)
        try:
            yield
        except errors as error:
            missing = 'no ' * isinstance(error, KeyError)
            self.add(kind, place, f'{missing}{error}')

    def check(self, hint: str = '') -> None:
        """Raises a ValueError with the first ten of each kind, if any."""
        lines = []
        for kind, messages in self.items():
            cut = f', the first {MAX_SHOWN}' * (len(messages) > MAX_SHOWN)
            lines.append(f'{kind}: {len(messages)}{cut}')
            lines.extend(f'  {message}' for message in messages[:MAX_SHOWN])
        if lines:
            raise ValueError('\n'.join(lines + [hint] * bool(hint)))


class Example(NamedTuple):
    """An image and its classes.

    Attributes:
        path: The image, relative to the root of the images, or absolute.
        names: Names of its classes; one may repeat.
        place: The file, with line or entry, that says so, for messages.
        others: File names below the root to try where ``path`` is missing.
    """

    path: str
    names: tuple[str, ...]
    place: str
    others: tuple[str, ...] = ()


class ImageSet(NamedTuple):
    """The images of a source.

    Attributes:
        examples: The N images in the order of the source.
        classes: The K classes in the order of their labels; empty where the
            source gives none, until :func:`settle_classes`.
        root: The folder to which relative image paths refer.
        source: The file or folder that was read, for messages.
        notes: What was found or guessed, for the user.
        left_out: The images that were left out, each with the reason.
    """

    examples: list[Example]
    classes: tuple[str, ...]
    root: str
    source: str
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def matrix(self) -> np.ndarray:
        """Returns the labels as an array, bool (N, K)."""
        index = {name: k for k, name in enumerate(self.classes)}
        matrix = np.zeros((len(self.examples), len(self.classes)), bool)
        for row, example in zip(matrix, self.examples, strict=True):
            row[[index[name] for name in example.names]] = True
        return matrix

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Returns some of the images, in the order of ``indices``."""
        return self._replace(examples=[self.examples[i] for i in indices])


def settle_classes(images: ImageSet, classes: Iterable[str] = ()) -> ImageSet:
    """Gives a reader's images their classes, in the order of their labels.

    These are ``classes``, or else the source's, or else all names, sorted.

    Raises:
        ValueError: No images or classes; a class name is empty, unusable,
            repeats or is not known.
    """
    classes = tuple(classes) or images.classes
    check_names(classes, [images.source] * len(classes))
    names = {name for example in images.examples for name in example.names}
    classes = classes or tuple(sorted(names))
    if not images.examples or not classes:
        lack = 'names no class' if images.examples else 'holds no image'
        raise ValueError(f'{images.source}: {lack}')
    bad = {n for n in names if UNWRITABLE.search(n)} | (names - {*classes})
    problems = Problems()
    for example in images.examples:
        for name in sorted(bad.intersection(example.names)):
            kind = 'class names that are unknown or cannot be written'
            problems.add(kind, example.place, repr(name))
    problems.check()
    return images._replace(classes=classes)


def check_names(
    names: Iterable[str],
    places: Iterable[str],
    known: Container[str] | None = None,
) -> None:
    """Checks a list of names, each with the place where it stands.

    Raises:
        ValueError: A name is empty, unusable, not known, or repeats.
    """
    problems = Problems()
    seen = set()
    for name, place in zip(names, places, strict=True):
        if not name.strip() or UNWRITABLE.search(name):
            kind = 'names that are empty or cannot be written'
            problems.add(kind, place, repr(name))
        elif known is not None and name not in known:
            problems.add('unknown names', place, repr(name))
        elif name in seen:
            problems.add('names that repeat', place, repr(name))
        seen.add(name)
    problems.check()
