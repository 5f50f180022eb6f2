"""Loads checkpoints without unpickling anything that they do not need."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's checkpoints.

    A checkpoint of the original MMEngine holds, beside tensors, the message
    hub's ``HistoryBuffer`` objects: numpy arrays of float64 and int64. These
    classes, and no others, are allow-listed for the safe unpickler of
    torch >= 2.6.
    """
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            reconstruct,
            scalar,
            np.ndarray,
            np.dtype,
            type(np.dtype(np.float64)),
            type(np.dtype(np.int64)),
        ]
    )
