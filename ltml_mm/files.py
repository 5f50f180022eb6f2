"""Atomic writes, checksums beside files, and weights without code."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ltml_cli.run_parsers import SAFETENSORS

#: What is added to a file's name for the file with its checksum.
SUFFIX = '.sha256'
#: The entry of safetensors' header that holds a checkpoint's ``meta``.
META_KEY = 'ltml_mm'


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file atomically: whole or not at all.

    Its folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, because a name may already be as long as names can be.
    partial = path.with_name(f'.{path.name[:32]}.{os.getpid()}.tmp')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    write_bytes(path, text.encode('utf-8'))


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file atomically; NaN, which is not JSON, is refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    # Bytes of a name that are not UTF-8 become escapes of JSON.
    write_bytes(path, f'{text}\n'.encode('utf-8', 'backslashreplace'))


class AtomicFileBackend(LocalBackend):
    """The local file backend with atomic writes and checksums.

    A file is written under a temporary name, flushed to the disk, renamed,
    and the rename flushed too. A kill or a power cut leaves the old file or
    the new one, never half of one. The checksum is that of the bytes in
    memory and goes into a file of its own, in the form that ``sha256sum
    --check`` reads.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file and its checksum.

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
        # The file last: a kill in between leaves one that can be found.
        checksum_path(filepath).unlink(missing_ok=True)
        super().remove(filepath)


register_backend('whole_files', AtomicFileBackend, force=True)


def checksum_path(path: str | Path) -> Path:
    """Returns the path of the checksum file beside a file."""
    return Path(f'{path}{SUFFIX}')


def flush_folder(folder: Path) -> None:
    """Makes the renames in a folder survive a power cut."""
    if os.name == 'nt':
        return  # Windows opens no folders.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_damage(path: str | Path) -> str | None:
    """Describes the damage of a checkpoint file; None if it is whole.

    The recorded checksum decides. A checkpoint without one, of the stock
    hook for instance, is judged by the checksums that its own ZIP records
    hold; files of another format count as whole.
    """
    recorded = checksum_path(path)
    if recorded.is_file():
        words = recorded.read_text(encoding='utf-8', errors='replace').split()
        if words and words[0] == file_sha256(path):
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


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


#: The methods that a checkpoint names: a pickled ``HistoryBuffer`` its own
#: statistics, and the state of a one-cycle schedule how it anneals.
CHECKPOINT_METHODS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def _checkpoint_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr``, which would reach any function, in checkpoints.

    Raises:
        UnpicklingError: It is none of :data:`CHECKPOINT_METHODS`.
    """
    for known, names in CHECKPOINT_METHODS.items():
        if owner is known and name in names:
            return getattr(known, name)
    raise UnpicklingError(f'getattr of {name!r} has no place in a checkpoint')


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's checkpoints.

    The original MMEngine does not, under torch >= 2.6; OneDL's does it for
    each load, but for those that the installed numpy's generation wrote.
    The message hub in a checkpoint holds ``HistoryBuffer`` objects, and
    these numpy arrays of float64 and int64, which two functions rebuild.
    They have other names in numpy 1 than in numpy 2.
    """
    rebuild: list[Any] = [
        np.empty(0).__reduce__()[0],
        np.float64(0).__reduce__()[0],
    ]
    known: list[Any] = [
        *CHECKPOINT_METHODS,
        (_checkpoint_method, 'builtins.getattr'),
        *(
            (function, f'numpy.{core}.multiarray.{function.__name__}')
            for core in ('core', '_core')
            for function in rebuild
        ),
        np.ndarray,
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.int64)),
    ]
    torch.serialization.add_safe_globals(known)


def write_safetensors(
    path: str | Path, state_dict: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes weights as safetensors, and their checksum, atomically.

    What is no tensor is left out; ``meta`` goes into the header as JSON.
    """
    tensors = {
        # Copies: the format has no place for tensors that share memory.
        key: value.detach().cpu().clone().contiguous()
        for key, value in state_dict.items()
        if isinstance(value, torch.Tensor)
    }
    text = json.dumps(meta, ensure_ascii=False, default=str)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = save(tensors, {'format': 'pt', META_KEY: text})
    AtomicFileBackend().put(content, path)


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Reads weights, those of others, too.

    Returns:
        dict: ``state_dict``, and ``meta``, empty where the header has none.

    Raises:
        ValueError: The file is truncated or none of safetensors.
    """
    try:
        with safe_open(str(path), 'pt') as file:
            meta = json.loads((file.metadata() or {}).get(META_KEY, '{}'))
            state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f'{path} is truncated or no file of safetensors ({error})'
        ) from error
    return {'state_dict': state_dict, 'meta': meta}


def load_from_safetensors(filename: str, map_location: Any) -> dict[str, Any]:
    """Loads weights for MMEngine: ``load_from``, ``init_cfg`` and tests."""
    content = read_safetensors(filename)
    for key, value in content['state_dict'].items():
        content['state_dict'][key] = value.to(map_location or 'cpu')
    return content


CheckpointLoader.register_scheme(
    rf'.*\{SAFETENSORS}$', load_from_safetensors, force=True
)
