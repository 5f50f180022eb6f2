"""Checks checkpoints before anything is loaded from them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ltml_mm.engine.checkpoint import checkpoint_classes


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU without running anything in it.

    Args:
        path: A local file.

    Returns:
        dict: The checkpoint, with ``state_dict``.

    Raises:
        CheckpointError: The file is missing, truncated, no checkpoint, or
            holds objects of classes that a checkpoint does not need.
    """
    if not Path(path).is_file():
        raise CheckpointError(f'checkpoint not found: {path}')
    try:
        with torch.serialization.safe_globals(checkpoint_classes()):
            checkpoint = torch.load(
                path, map_location='cpu', weights_only=True
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f'{path} is truncated or no checkpoint ({_first_line(error)})'
        ) from error
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise CheckpointError(
            f'{path} holds no "state_dict": it is not a checkpoint of MMEngine'
        )
    return checkpoint


def _refusal(path: str | Path, error: Exception) -> str:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError):
        return f'{path} is no checkpoint ({_first_line(error)})'
    allowed = {
        f'{c.__module__}.{c.__qualname__}' for c in checkpoint_classes()
    }
    names = ', '.join(sorted(set(foreign) - allowed)) or _first_line(error)
    return (
        f'{path} is refused: it holds pickled objects ({names}) that weights '
        'do not need and that could run any code when loaded. If you trust '
        'its source, save its state_dict alone to a new file first'
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0]
