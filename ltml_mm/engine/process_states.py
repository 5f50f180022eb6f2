"""What every process must save itself, since rank 0 writes checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ltml_mm.engine.random_states import restore_random_states


def gather_states(
    runner: Runner, random_states: dict[str, Any]
) -> list[dict[str, Any]]:
    """Collects the states of all processes; all of them must call it.

    Args:
        runner: The runner.
        random_states: Those of this process.

    Returns:
        list[dict]: Per process ``random`` and ``buffers``: the buffers of
        the model in which it differs from process 0, as the running
        statistics of BatchNorm do.
    """
    own = {'random': random_states, 'buffers': _saved_buffers(runner)}
    ranks = all_gather_object(own) if runner.world_size > 1 else [own]
    first = ranks[0]['buffers']
    return [
        {**rank, 'buffers': _differing(rank['buffers'], first)}
        for rank in ranks
    ]


def restore_states(runner: Runner, ranks: Sequence[dict[str, Any]]) -> None:
    """Gives this process its own states back, where there are any.

    Args:
        runner: The runner, its model loaded.
        ranks: What :func:`gather_states` returned.
    """
    if runner.rank >= len(ranks):
        return
    own = ranks[runner.rank]
    buffers = dict(_model(runner).named_buffers())
    with torch.no_grad():
        for name, value in own['buffers'].items():
            buffers[name].copy_(value)
    restore_random_states(own['random'])


def _model(runner: Runner) -> torch.nn.Module:
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def _saved_buffers(runner: Runner) -> dict[str, torch.Tensor]:
    """Returns the buffers that a checkpoint holds, on the CPU."""
    if runner.world_size == 1:
        return {}
    model = _model(runner)
    saved = model.state_dict().keys()
    return {
        name: buffer.detach().cpu()
        for name, buffer in model.named_buffers()
        if name in saved
    }


def _differing(
    buffers: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in buffers.items()
        if not torch.equal(value, others[name])
    }
