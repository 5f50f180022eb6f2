"""Finds and checks the image files that a source names."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from glob import escape, glob
from itertools import takewhile
from pathlib import Path, PureWindowsPath
from urllib.parse import parse_qs, unquote, urlsplit

from tqdm.contrib.concurrent import thread_map

from ltml_mm.datasets.converters import records
from ltml_mm.datasets.images import (
    EXTENSIONS,
    UnreadableImageError,
    check_image,
)

SYSTEM_FILES = ('.', 'thumbs.db', 'desktop.ini')
OUTSIDE = 'images outside (--allow-outside, if you trust the source)'
MISSING = 'missing images (--skip-missing leaves them out)'
BROKEN = 'images that do not decode (--skip-bad leaves them out)'
# Where exports keep images, seen from the annotation file.
IMAGE_FOLDERS = ('data', 'images', 'JPEGImages', '../images', '../data')


def list_folder(path: str | Path) -> list[Path]:
    """Lists a folder, sorted, without hidden files and those of systems."""
    paths = sorted(Path(path).iterdir())
    return [p for p in paths if not p.name.lower().startswith(SYSTEM_FILES)]


def rooted(images: records.ImageSet, own: str = '') -> records.ImageSet:
    """Finds the folder of the images that an exported file names.

    It is ``own``, where the format keeps images, seen from the file, if that
    exists; else the folder of the file, unless all of the first names are
    missing there and one is found in a folder that exports use, which a note
    tells.
    """
    folder = os.path.dirname(images.source) or '.'
    names = [
        path
        for example in images.examples[:20]
        for name in (example.path, *example.others)
        for path in _below(name)
    ]
    for place in (own, '', *IMAGE_FOLDERS):
        root = os.path.normpath(os.path.join(folder, place))
        files = (os.path.isfile(os.path.join(root, name)) for name in names)
        if (place == own != '' and os.path.isdir(root)) or any(files):
            notes = (*images.notes, *[f'images in {root}'] * bool(place))
            return images._replace(root=root, notes=notes)
    return images._replace(root=folder)


def settle_paths(
    sets: Iterable[records.ImageSet], root: str, options: records.OutputOptions
) -> list[records.ImageSet]:
    """Finds and checks the image files.

    Returns:
        list[ImageSet]: The sets with paths relative to ``root``; an absolute
        path outside stays. With ``skip_missing`` and ``skip_bad`` without
        those images, which ``left_out`` lists.

    Warns:
        UserWarning: Images were found under another name.

    Raises:
        ValueError: Images stand twice, in both sets too, are missing, leave
            the root by their path or through a link, or do not decode.
    """
    real_root = os.path.join(os.path.realpath(root), '')
    problems = records.Problems()
    renamed: list[str] = []
    missing: list[str] = []
    places: dict[str, str] = {}
    files = _ImageFiles(root)
    settled = []
    for images in sets:
        examples, left_out = [], []
        for example in images.examples:
            listed, names, place, _ = example
            path = _relative(images.root, listed, root)
            found = files.find(images.root, example)
            if found not in (None, path):
                renamed.append(f'{place}: {found} in place of {path}')
            path = found or path
            file = os.path.join(root, path)
            outside = path.split(os.sep)[0] in ('', os.pardir)
            if records.UNWRITABLE.search(path):
                problems.add('bad image paths', place, repr(listed))
            elif places.setdefault(path, place) != place:
                fault = f'{path} stands at {places[path]}, too'
                problems.add('images that repeat', place, fault)
            elif not os.path.isfile(file):
                missing.append(listed)
                if options.skip_missing:
                    left_out.append(f'missing: {listed}')
                    continue
                told = f'{path!r} in {root}{files.namesakes(listed)}'
                problems.add(MISSING, place, told)
            elif not options.allow_outside and (
                outside or not os.path.realpath(file).startswith(real_root)
            ):
                problems.add(OUTSIDE, place, f'{path} lies outside {root}')
            examples.append(records.Example(path, names, place))
        left = images.left_out + tuple(left_out)
        settled.append(
            images._replace(examples=examples, root=root, left_out=left)
        )
    hint = _suggest_folder(root, missing)
    problems.check(hint)
    if missing and not settled[0].examples:
        told = f'all {len(settled[0].left_out)} images are missing in {root}'
        raise ValueError(f'{settled[0].source}: {told}\n{hint}'.rstrip())
    if renamed:
        told = 'are not where the source says; found under another name'
        told = f'{len(renamed)} images {told}: {renamed[0]}'
        warnings.warn(told, stacklevel=2)
    if options.check_images or options.skip_bad:
        settled = [_decodable(part, options.skip_bad) for part in settled]
    return settled


def _decodable(images: records.ImageSet, skip_bad: bool) -> records.ImageSet:
    """Decodes all images; leaves out those that fail, or raises."""
    files = [os.path.join(images.root, e.path) for e in images.examples]
    # Threads that silence warnings leave the filters in any state.
    with warnings.catch_warnings():
        bar = {'desc': 'decode images', 'disable': None}  # on terminals
        faults = thread_map(_decode_fault, files, **bar)
    problems = records.Problems()
    for example, fault in zip(images.examples, faults, strict=True):
        if fault:
            problems.add(BROKEN, example.place, fault)
    if not skip_bad:
        problems.check()
    kept = [index for index, fault in enumerate(faults) if not fault]
    told = tuple(f'does not decode: {fault}' for fault in faults if fault)
    return images.subset(kept)._replace(left_out=images.left_out + told)


def _decode_fault(file: str) -> str | None:
    try:
        check_image(file)
    except UnreadableImageError as error:
        return str(error)
    return None


class _ImageFiles:
    """The image files below a folder, which is searched when one is missing.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def find(self, folder: str, example: records.Example) -> str | None:
        """Returns the path of an image from the root; None if it is missing.

        Its path comes first, then its other names; then the same path with
        the other separators, in other case or form of Unicode or with the
        extension that it lacks; and last, of an address or a path of another
        machine, the one file of its name.
        """
        for name in (example.path, *example.others):
            path = _relative(folder, name, self.root)
            if os.path.isfile(os.path.join(self.root, path)):
                return path
        local, foreign = _local_path(example.path)
        paths = [path for path in (local, *example.others) if path]
        for path in paths:
            wanted = _relative(folder, path, self.root)
            same = [p for p in self._alike(path) if _matches(p, wanted)]
            if len(same) == 1:
                return same[0]
        if not foreign:
            return None
        for path in paths:
            alike = self._alike(path)
            # Of several, the one that shares most of the last folders.
            shared = [_shared_parts(found, path) for found in alike]
            if shared and shared.count(max(shared)) == 1:
                return alike[shared.index(max(shared))]
        return None

    def namesakes(self, listed: str) -> str:
        """Says where files of a missing image's name are, if there are."""
        found = self._alike(_local_path(listed)[0] or listed)
        told = ', '.join(found[:3]) + ', ...' * (len(found) > 3)
        return f'; {len(found)} of that name: {told}' if found else ''

    def _alike(self, path: str) -> list[str]:
        """Lists the images of a path's name, the extension in any case."""
        return self._by_name.get(_plain(os.path.basename(path)), [])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in _image_files(self.root):
            name = _plain(os.path.basename(path))
            found[name].append(path)
            found[os.path.splitext(name)[0]].append(path)
        return found


def _image_files(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                yield os.path.relpath(os.path.join(folder, name), root)


def _plain(path: str) -> str:
    """Writes a path in lower case, and accents in one of their two forms."""
    return unicodedata.normalize('NFC', path).lower()


def _matches(found: str, wanted: str) -> bool:
    """Tells whether a path is the wanted one but for case or extension."""
    found, wanted = _plain(found), _plain(os.path.normpath(wanted))
    return wanted in (found, os.path.splitext(found)[0])


def _shared_parts(found: str, wanted: str) -> int:
    """Counts the last folders that two paths have in common."""
    paths = Path(found.lower()), Path(wanted.lower())
    folders = (reversed(path.parts[:-1]) for path in paths)
    pairs = zip(*folders, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _local_path(listed: str) -> tuple[str, bool]:
    """Turns an address or a Windows path into a path of this system.

    Returns:
        tuple: The path, and whether it is that of another machine.
    """
    if '://' in listed or listed.startswith('/data/local-files/'):
        try:
            parts = urlsplit(listed)
        except ValueError:
            return listed, False
        # Label Studio's local files are named in the query.
        path = parse_qs(parts.query).get('d', [unquote(parts.path)])[0]
        return path.lstrip('/'), True
    foreign = os.path.isabs(listed) or bool(PureWindowsPath(listed).drive)
    return '/'.join(listed.split('\\')), foreign


def _below(listed: str) -> tuple[str, ...]:
    """Returns the paths that may lie below a folder of images."""
    local, foreign = _local_path(listed)
    return (os.path.basename(local),) if foreign else (listed, local)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _suggest_folder(root: str, missing: list[str]) -> str:
    """Names the folder, one level up or down, that holds missing images."""
    if not missing:
        return ''
    parent = os.path.normpath(os.path.join(root, os.pardir))
    folders = [parent]
    for place in (root, parent):
        folders += sorted(glob(os.path.join(escape(place), '*', '')))
    some = missing[:100]

    def count(folder: str) -> int:
        paths = ([os.path.join(folder, p) for p in _below(n)] for n in some)
        number = sum(any(map(os.path.isfile, found)) for found in paths)
        if number or any(map(_is_image, some)):
            return number
        # Ids without an extension.
        try:
            names = filter(_is_image, os.listdir(folder))
        except OSError:
            return 0
        return len({os.path.splitext(n)[0] for n in names} & {*some})

    best = os.path.normpath(max(folders, key=count))
    told = f'{count(best)} of {len(some)} are in {best}: pass --images {best}'
    return told if count(best) else ''


def _relative(folder: str, path: str, root: str) -> str:
    """Returns a path in a folder as one from the root, or absolute outside."""
    relative = os.path.relpath(os.path.join(folder, path), root)
    absolute = os.path.isabs(path) and relative.split(os.sep)[0] == os.pardir
    return os.path.normpath(path) if absolute else relative
