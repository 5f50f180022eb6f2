"""Which classes a checkpoint of MMEngine holds beside tensors."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def checkpoint_classes() -> list[Any]:
    """Lists what the safe unpickler must know to read a checkpoint.

    The message hub in a checkpoint holds ``HistoryBuffer`` objects, and
    these numpy arrays of float64 and int64.

    Returns:
        list: Classes, and the two functions by which numpy rebuilds arrays
        and scalars, under their names in numpy 1 and in numpy 2.
    """
    rebuild: list[Any] = [
        np.empty(0).__reduce__()[0],
        np.float64(0).__reduce__()[0],
    ]
    return [
        HistoryBuffer,
        (_history_method, 'builtins.getattr'),
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


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in checkpoints.

    A pickled ``HistoryBuffer`` names its own methods, ``HistoryBuffer.mean``
    for one; the real ``getattr`` would reach any function from there.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'getattr of {name!r} has no place in a checkpoint')


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's checkpoints.

    The original MMEngine does not, under torch >= 2.6; OneDL's does it for
    each load, but for those that the installed numpy's generation wrote.
    """
    torch.serialization.add_safe_globals(checkpoint_classes())
