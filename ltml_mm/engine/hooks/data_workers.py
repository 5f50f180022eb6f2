"""Signals and the processes that load data."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial

from torch.utils.data import DataLoader


def shield_workers(loader: DataLoader, signals: Sequence[int]) -> None:
    """Lets the workers to come ignore signals that others than we send.

    A scheduler sends its signal to every process of a job. A worker that
    died of it would end the training before the checkpoint.

    Args:
        loader: A dataloader that has no workers yet.
        signals: The signals.
    """
    loader.worker_init_fn = partial(_start, loader.worker_init_fn, signals)


def end_workers(loader: DataLoader) -> None:
    """Ends a dataloader's persistent workers as their tasks end.

    Python would end them by a signal, after which they tidy nothing up, and
    torch, with pinned memory, would wait 5 seconds for each before.

    Args:
        loader: A dataloader; its next iterator starts workers of its own.
    """
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _start(
    init: Callable[[int], None] | None, signals: Sequence[int], worker_id: int
) -> None:
    """What a worker does first."""
    if hasattr(signal, 'sigwaitinfo'):  # Not on macOS.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(
            target=_wait_for_parent, args=(signals,), daemon=True
        ).start()
    if init is not None:
        init(worker_id)


def _wait_for_parent(signals: Sequence[int]) -> None:
    """Ends the worker when a signal comes from the process it works for.

    To ignore them all would let that process wait for ever at its end.
    """
    while signal.sigwaitinfo(signals).si_pid != os.getppid():
        pass
    os._exit(0)
