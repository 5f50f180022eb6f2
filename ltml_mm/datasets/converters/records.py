"""Images with their labels, between the readers and the written files."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Container, Iterable
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from ltml_mm.datasets.images import UnreadableImageError, check_image

MAX_SHOWN = 10
OUTSIDE = 'images outside (--allow-outside, if you trust the source)'
# Control characters, and surrogates, which cannot be encoded.
UNWRITABLE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff]')


class OutputOptions(NamedTuple):
    """The options that all converters share.

    Attributes:
        out: The output folder.
        force: Whether existing output is overwritten.
        check_images: Whether to decode every image, in parallel.
        allow_outside: Whether paths and links may leave the images' folder.
    """

    out: str
    force: bool = False
    check_images: bool = False
    allow_outside: bool = False


class Problems(dict[str, list[str]]):
    """Messages by kind, collected so that one run tells about all of them."""

    def add(self, kind: str, place: str, message: str) -> None:
        """Adds a message about a place, such as a file and its line."""
        self.setdefault(kind, []).append(f'{place}: {message}')

    def check(self) -> None:
        """Raises a ValueError with the first ten of each kind, if any."""
        lines = []
        for kind, messages in self.items():
            cut = f', the first {MAX_SHOWN}' * (len(messages) > MAX_SHOWN)
            lines.append(f'{kind}: {len(messages)}{cut}')
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


class ImageSet(NamedTuple):
    """The images of a source.

    Attributes:
        examples: The N images in the order of the source.
        classes: The K classes in the order of their labels; empty where the
            source gives none, until :func:`settle_classes`.
        root: The folder to which relative image paths refer.
        source: The file or folder that was read, for messages.
    """

    examples: list[Example]
    classes: tuple[str, ...]
    root: str
    source: str

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


def settle_paths(
    sets: Iterable[ImageSet], root: str, options: OutputOptions
) -> list[ImageSet]:
    """Finds and checks the image files.

    Returns:
        list[ImageSet]: The sets with paths relative to ``root``; an absolute
        path outside stays.

    Warns:
        UserWarning: Images were found under another name.

    Raises:
        ValueError: Images stand twice, in both sets too, are missing, leave
            the root by their path or through a link, or do not decode.
    """
    real_root = os.path.join(os.path.realpath(root), '')
    problems = Problems()
    renamed: list[str] = []
    places: dict[str, str] = {}
    settled = []
    for images in sets:
        examples = []
        for listed, names, place, others in images.examples:
            path = _relative(images.root, listed, root)
            if others and not os.path.isfile(os.path.join(root, path)):
                for other in (_relative(images.root, p, root) for p in others):
                    if os.path.isfile(os.path.join(root, other)):
                        renamed.append(f'{place}: {other} in place of {path}')
                        path = other
                        break
            file = os.path.join(root, path)
            outside = path.split(os.sep)[0] in ('', os.pardir)
            if UNWRITABLE.search(path):
                problems.add('bad image paths', place, repr(listed))
            elif places.setdefault(path, place) != place:
                fault = f'{path} stands at {places[path]}, too'
                problems.add('images that repeat', place, fault)
            elif not os.path.isfile(file):
                problems.add('missing images', place, f'{path!r} in {root}')
            elif not options.allow_outside and (
                outside or not os.path.realpath(file).startswith(real_root)
            ):
                problems.add(OUTSIDE, place, f'{path} lies outside {root}')
            examples.append(Example(path, names, place))
        settled.append(images._replace(examples=examples, root=root))
    problems.check()
    if renamed:
        told = 'are not where the source says; found under another name'
        told = f'{len(renamed)} images {told}: {renamed[0]}'
        warnings.warn(told, stacklevel=2)
    if options.check_images:
        files = [os.path.join(root, path) for path in places]
        # Threads that silence warnings leave the filters in any state.
        with warnings.catch_warnings():
            faults = thread_map(_decode_fault, files, desc='decode images')
        for place, fault in zip(places.values(), faults, strict=True):
            if fault:
                problems.add('images that do not decode', place, fault)
    problems.check()
    return settled


def _decode_fault(file: str) -> str | None:
    try:
        check_image(file)
    except UnreadableImageError as error:
        return str(error)
    return None


def _relative(folder: str, path: str, root: str) -> str:
    """Returns a path in a folder as one from the root, or absolute outside."""
    relative = os.path.relpath(os.path.join(folder, path), root)
    absolute = os.path.isabs(path) and relative.split(os.sep)[0] == os.pardir
    return os.path.normpath(path) if absolute else relative
