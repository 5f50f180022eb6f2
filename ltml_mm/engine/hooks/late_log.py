"""Logs values of steps without a wait for the GPU that computes them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

#: Seconds that a value waits at most: the status of a run shows the loss.
LATEST = 1.0


@HOOKS.register_module()
class LateRuntimeInfoHook(RuntimeInfoHook):
    """A ``RuntimeInfoHook`` that does not wait for a GPU in each step.

    MMEngine's reads the terms of the loss after each step, so the GPU is idle
    until the host has prepared the next one. Here they are read when a log or
    a checkpoint asks, and once a second. The values are the same.
    """

    def after_train_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any
    ) -> None:
        """Notes the outputs of the model, the last argument."""
        outputs = kwargs.get('outputs', args[-1] if args else None)
        for key, value in (outputs or {}).items():
            log_late(runner.message_hub, f'train/{key}', value)


def log_late(hub: MessageHub, key: str, value: Any) -> None:
    """Adds a scalar to a message hub, as ``hub.update_scalar``, unread.

    Args:
        hub: A message hub.
        key: The name of the scalar.
        value: A tensor of one value, or a number.
    """
    history = hub.log_scalars.get(key)
    if not isinstance(history, LateHistory):
        hub.update_scalar(key, value)  # Checks it, and waits.
        history = LateHistory(*hub.log_scalars[key].data)
        hub.log_scalars[key] = history
    elif isinstance(value, Tensor):
        history.late.append(value.detach().reshape(()))
    else:
        hub.update_scalar(key, value)
    if time.monotonic() - history.read_at > LATEST:
        history.current()


class LateHistory(HistoryBuffer):
    """A ``HistoryBuffer`` that reads values when it is asked for any.

    In a checkpoint it is a ``HistoryBuffer``.
    """

    def __init__(self, *args: Any) -> None:
        #: Scalars on their device, what has been read, and when.
        self.late: list[Tensor] = []
        self.known: np.ndarray = np.array([])
        self.read_at = time.monotonic()
        super().__init__(*args)

    @property
    def _log_history(self) -> np.ndarray:
        late, self.late = self.late, []
        self.read_at = time.monotonic()
        for value in torch.stack(late).tolist() if late else ():
            self.update(value)
        return self.known

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self.known = values

    def __reduce__(self) -> tuple:
        return HistoryBuffer, self.data
