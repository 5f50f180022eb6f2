"""Saves and restores the random generators of a process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture_random_states() -> dict[str, Any]:
    """Returns the states of all global generators of this process.

    Returns:
        dict: Of ``python``, ``numpy``, ``torch`` and ``cuda`` (None without
        a GPU): tensors and plain values only, so that a checkpoint with it
        loads under ``weights_only=True``.
    """
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, *rest = state
    on_gpu = torch.cuda.is_available()
    return {
        'python': (version, torch.tensor(words), gauss),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if on_gpu else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets all global generators of this process.

    Args:
        states: What :func:`capture_random_states` returned; its tensors may
            have moved to another device.
    """
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())
