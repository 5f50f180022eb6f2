"""Keeps the decoded pixels of images in a file that processes share."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
from filelock import FileLock
from mmengine.logging import print_log
from PIL import Image

#: Names the folder of the caches, in place of one in the temporary folder.
FOLDER_VARIABLE = 'LTML_IMAGE_CACHE'
#: The image headers that an estimate of the decoded size reads.
SAMPLED = 64
#: How much larger than the estimate a cache may become.
MARGIN = 1.5
#: A cache that no run has opened for so many seconds is removed.
MAX_AGE = 7 * 24 * 3600
OWN_NAME = re.compile(r'[0-9a-f]{24}\.images(\.lock|\.\d+\.tmp)?')
GIB = 2**30
#: Bytes that the lists of this process need, by file.
_promised: dict[Path, int] = {}

# Format, start of the machine, number of slots, capacity, bytes given away.
HEADER = struct.Struct('<8s36sQQQ')
FORMAT = b'LTMLIMG1'
BOOT = Path('/proc/sys/kernel/random/boot_id')
# File (size, mtime, ctime), offset, height, width, channels, checksum of
# the pixels, checksum of the record.
RECORD = struct.Struct('<QqqQIIIII')
#: Bytes kept for the header and for each record.
HEAD, SLOT = 128, 64


class Record(NamedTuple):
    """Where the pixels of one image are, and of which state of its file."""

    state: tuple[int, int, int]
    offset: int
    shape: tuple[int, ...]
    checksum: int


def file_state(path: str) -> tuple[int, int, int]:
    """Returns size, mtime and ctime in ns: another state, another content."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class DecodedCache:
    """Decoded images in one memory-mapped file, one slot for each.

    Every process that opens the same path shares what is in it. An image is
    written once, under a file lock: its space is given away, then its pixels
    are written, then its record. A process that is killed on the way leaves
    a slot without a record and costs at most the space of one image. A
    record counts for one state of the image's file, and the pixels must have
    its checksum when a process first reads them; otherwise the image is
    decoded and written anew. The file never grows over its capacity: further
    images are not kept. A write that fails ends the writing, not the run.
    A file from before a restart of the machine, which may have lost a part
    of it, is made anew.

    Args:
        path (str | Path): The file, made where it is missing or broken.
        images (Sequence[str]): The images, one slot each, in their order.
        capacity (int): Room for pixels, in bytes.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(
        self, path: str | Path, images: Sequence[str], capacity: int
    ) -> None:
        self.path = str(path)
        self.capacity = capacity
        self._slots = {i: n for n, i in enumerate(dict.fromkeys(images))}
        self._start = HEAD + SLOT * len(self._slots)
        # Offsets of the pixels whose checksum this process has compared.
        self._compared = np.zeros(len(self._slots), np.uint64)
        self._full = False
        self._file: int | None = None
        self._map: Any = None  # mmap.mmap once it is open
        self._header = (FORMAT, _boot(), len(self._slots), capacity)
        self._open()

    def read(self, image: str) -> np.ndarray | None:
        """Returns a copy of an image's pixels as its file is now.

        uint8 (H, W, 3) or (H, W); None where they are not here.
        """
        slot = self._slot(image)
        if slot is None:
            return None
        record = self._record(slot)
        try:
            if record is None or record.state != file_state(image):
                return None
        except OSError:
            return None  # Whoever decodes it says what is wrong with it.
        count = int(np.prod(record.shape))
        pixels = np.frombuffer(self._map, np.uint8, count, record.offset)
        if self._compared[slot] != record.offset:
            if zlib.crc32(pixels.data) != record.checksum:
                return None
            self._compared[slot] = record.offset
        # A copy: a transform may write into its image.
        return pixels.reshape(record.shape).copy()

    def write(
        self, image: str, state: tuple[int, int, int], pixels: np.ndarray
    ) -> None:
        """Keeps pixels, uint8 (H, W, 3) or (H, W), where there is room.

        ``state`` is the :func:`file_state` from before the image was decoded.
        """
        slot = self._slot(image)
        known = pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
        if slot is None or self._full or not known:
            return
        try:
            with _lock(self.path):
                # Another process may have been faster.
                if self.read(image) is None:
                    self._append(slot, state, np.ascontiguousarray(pixels))
        except OSError as error:
            self._full = True
            _say(
                f'no further images are kept decoded in {self.path}: '
                f'{error.strerror or error}',
                logging.WARNING,
            )

    def _slot(self, image: str) -> int | None:
        if self._map is None:  # in a spawned process
            try:
                self._open()
            except OSError as error:
                self._slots = {}
                _say(f'images are not kept decoded: {error}', logging.WARNING)
        return self._slots.get(image)

    def _append(
        self, slot: int, state: tuple[int, int, int], pixels: np.ndarray
    ) -> None:
        file = self._descriptor()
        used = HEADER.unpack(os.pread(file, HEADER.size, 0))[-1]
        if used + pixels.nbytes > self.capacity:
            self._full = True
            return
        offset = self._start + used
        # The space first: whoever is killed after it leaves a gap, and
        # nobody writes into pixels that a record names.
        _write(file, HEADER.pack(*self._header, used + pixels.nbytes), 0)
        _write(file, pixels.data.cast('B'), offset)
        height, width, *channels = pixels.shape
        shape = (height, width, channels[0] if channels else 0)
        body = RECORD.pack(*state, offset, *shape, zlib.crc32(pixels.data), 0)
        record = body[:-4] + zlib.crc32(body[:-4]).to_bytes(4, 'little')
        _write(file, record, HEAD + SLOT * slot)

    def _record(self, slot: int) -> Record | None:
        # Not from the map: a hole there takes a page of a full tmpfs, SIGBUS.
        body = os.pread(self._descriptor(), RECORD.size, HEAD + SLOT * slot)
        *state, offset, height, width, channels, checksum, own = RECORD.unpack(
            body
        )
        # Half-written, or never.
        if not offset or zlib.crc32(body[:-4]) != own:
            return None
        shape = (height, width, channels) if channels else (height, width)
        return Record((state[0], state[1], state[2]), offset, shape, checksum)

    def _open(self) -> None:
        # From a block so large glibc learns to keep what is freed: otherwise
        # each image takes new pages from the system.
        np.empty(31 * 2**20, np.uint8)
        size = self._start + self.capacity
        with _lock(self.path):
            if not self._fits(size):
                partial = f'{self.path}.{os.getpid()}.tmp'
                with open(partial, 'wb') as file:
                    file.write(HEADER.pack(*self._header, 0))
                    # A hole: the disk gives space only for what is written.
                    file.truncate(size)
                os.replace(partial, self.path)
            os.utime(self.path)
            self._map = mmap.mmap(
                self._descriptor(), size, access=mmap.ACCESS_READ
            )

    def _fits(self, size: int) -> bool:
        try:
            with open(self.path, 'rb') as file:
                found = HEADER.unpack(file.read(HEADER.size))
        except (FileNotFoundError, struct.error):
            return False
        same_size = os.path.getsize(self.path) == size
        return found[:-1] == self._header and same_size

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR)
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what a spawned process must open by itself."""
        return {**vars(self), '_file': None, '_map': None}

    def __del__(self) -> None:
        """Closes the file; the mapping closes itself."""
        file = getattr(self, '_file', None)
        if file is not None:
            os.close(file)


def _boot() -> bytes:
    """Returns what tells one start of the machine from the next."""
    return BOOT.read_bytes()[:36] if BOOT.exists() else bytes(36)


def _lock(path: str) -> AbstractContextManager[Any]:
    # A new object each time: one from before a fork would share its state.
    lock = FileLock(f'{path}.lock', timeout=60, is_singleton=False)
    # It is held for less than a millisecond; filelock would sleep for 50.
    return lock.acquire(poll_interval=0.001)


def _write(file: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _say(message: str, level: int = logging.INFO) -> None:
    print_log(message, logger='current', level=level)


def open_cache(
    images: Sequence[str], setting: str | float, options: tuple
) -> DecodedCache | None:
    """Opens the cache of a list of images, where they fit.

    It lies in the folder that ``LTML_IMAGE_CACHE`` names, by default in one
    of the user's own within the temporary folder, and its name is a digest
    of the images' paths and of what decodes them. A cache that no run opened
    for a week is removed.

    Args:
        images: Paths of local files.
        setting: ``'auto'``: if the decoded images take no more than half of
            the memory and half of the disk space that are free. A number:
            as many of them as fit into so many GiB.
        options: How they are decoded.

    Returns:
        DecodedCache | None: None where they do not fit, or where the folder
        cannot be written, which is logged.

    Raises:
        ValueError: ``setting`` is neither.
    """
    limit = _limit(setting)
    if not images:
        return None
    try:
        folder = cache_folder()
        needed = estimate_size(images)
        capacity = int(MARGIN * needed)
        if limit is not None:
            capacity = min(capacity, limit)
        path = folder / f'{_digest(images, (*options, capacity))}.images'
        _remove_old(folder, path)
        if limit is None and not _has_room(needed, path):
            return None
        cache = DecodedCache(path, images, capacity)
    except OSError as error:
        _say(f'images are not kept decoded: {error}', logging.WARNING)
        return None
    _say(
        f'{len(images)} images are kept decoded in {path}, about '
        f'{needed / GIB:.2f} GiB, at most {capacity / GIB:.2f} '
        '(image_cache=False turns it off)'
    )
    return cache


def _limit(setting: Any) -> int | None:
    """Returns the bytes that a setting allows, None for ``'auto'``."""
    if setting == 'auto':
        return None
    number = isinstance(setting, (int, float)) and not isinstance(
        setting, bool
    )
    if not number or not 0 < setting < float('inf'):
        raise ValueError(
            "image_cache must be 'auto', False or a positive number of GiB, "
            f'got {setting!r}'
        )
    return int(setting * GIB)


def cache_folder() -> Path:
    """Makes the folder of the caches, which only this user can enter.

    Raises:
        OSError: It cannot be made, or belongs to another user.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        folder = Path(named)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if not hasattr(os, 'pwrite'):
        raise OSError('this system cannot write at a position of a file')
    folder = Path(tempfile.gettempdir()) / f'ltml_mm_{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Everybody may write into the temporary folder.
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(
            f'{folder} is not a folder of this user alone; remove it, or '
            f'name another one in {FOLDER_VARIABLE}'
        )
    return folder


def estimate_size(images: Sequence[str]) -> int:
    """Estimates the bytes of all images decoded, from some headers."""
    chosen = np.linspace(0, len(images) - 1, min(SAMPLED, len(images)))
    sizes = []
    for index in chosen.round().astype(int):
        try:
            with Image.open(images[index]) as image:
                sizes.append(3 * image.width * image.height)
        # Of every kind, and loading it will tell.
        except Exception:
            continue
    return int(np.mean(sizes or [0]) * len(images)) + 1


def _has_room(needed: int, path: Path) -> bool:
    """Whether half of what is free holds the images, and says if not.

    Those of the other lists of this process that are not written yet count.
    """
    missing = 0
    for other, size in {**_promised, path: needed}.items():
        kept = other.stat().st_blocks * 512 if other.exists() else 0
        missing += max(size - kept, 0)
    free = {
        'memory': available_memory(),
        'disk space': shutil.disk_usage(path.parent).free,
    }
    for what, size in free.items():
        if missing > size / 2:
            _say(
                f'images are not kept decoded: they would take '
                f'{missing / GIB:.2f} GiB, and {size / GIB:.2f} GiB of {what} '
                'are free (image_cache=GIB keeps so much of them)'
            )
            return False
    _promised[path] = needed
    return True


def available_memory() -> int:
    """Returns the bytes of memory that are free, within a container too."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        found = dict(line.split(':') for line in lines)
        available = int(found['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
    group = Path('/sys/fs/cgroup')
    try:
        limit = int((group / 'memory.max').read_text())
        pairs = (group / 'memory.stat').read_text().split()
        used = dict(zip(pairs[::2], map(int, pairs[1::2]), strict=True))
        # Pages of files count as free there, as in MemAvailable.
        own = limit - used['anon'] - used['shmem']
    except (OSError, KeyError, ValueError):
        return available
    return max(0, min(available, own))


def _digest(images: Sequence[str], options: tuple) -> str:
    # Another version of a decoder may round in another way.
    options = (*options, cv2.__version__, PIL.__version__)
    digest = hashlib.sha256(repr(options).encode())
    for image in images:
        digest.update(os.fsencode(os.path.abspath(image)) + b'\0')
    return digest.hexdigest()[:24]


def _remove_old(folder: Path, own: Path) -> None:
    for path in folder.glob('*.images*'):
        if not OWN_NAME.fullmatch(path.name):
            continue  # A folder that was named may hold other files.
        try:
            old = time.time() - path.stat().st_mtime > MAX_AGE
            if old and not path.name.startswith(own.name):
                path.unlink()
        except OSError:
            continue  # Another process was faster.
