"""Keeps two processes from being at one run of a comparison."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: The state of a process that found another one at its run.
BUSY = 75


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a run's lock, which the system frees when the process ends.

    It is one that data workers do not inherit.

    Args:
        folder: Of the run.

    Raises:
        SystemExit: With :data:`BUSY`; another process holds it.
    """
    with (folder / 'lock').open('w') as file:
        if not _take(file):
            print(f'{folder}: another process is at this run')
            sys.exit(BUSY)
        yield


def is_held(folder: Path) -> bool:
    """Tells whether another process is at a run, now.

    Args:
        folder: Of the run.

    Returns:
        bool: Whether its lock is held.
    """
    try:
        file = (folder / 'lock').open('r+')
    except FileNotFoundError:
        return False
    with file:
        return not _take(file)


def _take(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
