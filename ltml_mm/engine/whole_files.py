"""Writes checkpoints whole or not at all, with a checksum beside them."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ltml_mm.utils import write_bytes, write_text

#: What is added to a file's name for the file with its checksum.
SUFFIX = '.sha256'


class WholeFileBackend(LocalBackend):
    """The local file backend, except that a file is written whole.

    A file is written under a temporary name, flushed to the disk, renamed,
    and the rename flushed too. A kill or a power cut leaves the old file or
    the new one, never half of one. The checksum is that of the bytes in
    memory and goes into a file of its own, in the form that ``sha256sum
    --check`` reads.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file and its checksum.

        Args:
            obj: The content.
            filepath: Where to.

        Raises:
            OSError: The disk is full or the folder not writable; names the
                file. What was there before is unharmed.
        """
        path = Path(filepath)
        try:
            # Without a checksum a file is judged by those within it; with
            # that of its predecessor it would count as damaged.
            checksum_path(path).unlink(missing_ok=True)
            write_bytes(path, obj)
            digest = hashlib.sha256(obj).hexdigest()
            write_text(checksum_path(path), f'{digest}  {path.name}\n')
            flush_folder(path.parent)
        except OSError as error:
            raise OSError(
                error.errno,
                f'checkpoint not written, the ones before it are unharmed: '
                f'{error.strerror}',
                str(path),
            ) from error

    def remove(self, filepath: str | Path) -> None:
        """Removes a file and its checksum."""
        super().remove(filepath)
        checksum_path(filepath).unlink(missing_ok=True)


register_backend('whole_files', WholeFileBackend, force=True)


def checksum_path(path: str | Path) -> Path:
    """Returns where the checksum of a file stands."""
    return Path(f'{path}{SUFFIX}')


def flush_folder(folder: Path) -> None:
    """Makes the renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_damage(path: str | Path) -> str | None:
    """Says what is wrong with a checkpoint's bytes, None where nothing is.

    The recorded checksum decides. A checkpoint without one, of the stock
    hook for instance, is judged by the checksums that its own ZIP records
    hold; files of another format count as whole.

    Args:
        path: The file.

    Returns:
        str | None: A part of a sentence, such as ``'does not match its
        checksum in epoch_3.pth.sha256'``.
    """
    recorded = checksum_path(path)
    if recorded.is_file():
        words = recorded.read_text(encoding='utf-8', errors='replace').split()
        if words and words[0] == _digest(path):
            return None
        return f'does not match its checksum in {recorded.name}'
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
    # A damaged directory of records can raise nearly anything.
    except Exception as error:
        return f'is damaged ({error})'
    return None if damaged is None else f'is damaged (at record {damaged})'


def _digest(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
