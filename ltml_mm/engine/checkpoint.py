"""Which classes a checkpoint of MMEngine holds beside tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def checkpoint_classes() -> list[Any]:
    """Lists what the safe unpickler must know to read a checkpoint.

    The message hub in a checkpoint holds ``HistoryBuffer`` objects, and
    these numpy arrays of float64 and int64.

    Returns:
        list: Classes and the two functions by which numpy rebuilds arrays
        and scalars.
    """
    return [
        HistoryBuffer,
        np.empty(0).__reduce__()[0],
        np.float64(0).__reduce__()[0],
        np.ndarray,
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.int64)),
    ]


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's checkpoints.

    The original MMEngine does not, under torch >= 2.6; OneDL's does it for
    each load.
    """
    torch.serialization.add_safe_globals(checkpoint_classes())
