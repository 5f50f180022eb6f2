"""Computes a step again that a run stopped at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from ltml_mm.apis.config import load_config
from ltml_mm.engine.hooks.resume_state import (
    capture_random_states,
    restore_random_states,
)
from ltml_mm.engine.optimizers.step_record import (
    SAMPLE,
    non_finite_gradients,
    plain_terms,
)


@dataclass
class ReplayedStep:
    """What a step gave when it was computed again.

    Attributes:
        step: Number of the step, from 1.
        images: Image paths by stream.
        recorded: The loss terms of each batch, as the run had them.
        terms: The loss terms of each batch, as they come out now.
        gradients: The parameters whose gradients are not finite.
        model: The model, with the gradients of the step.
    """

    step: int
    images: dict[str, list[str]]
    recorded: list[dict[str, float]]
    terms: list[dict[str, float]]
    gradients: list[str]
    model: nn.Module


def replay_step(
    dump: str | Path, config: str | Path, device: str = 'cpu'
) -> ReplayedStep:
    """Computes the forward and backward passes of a dump again.

    With the same weights, inputs, random states and precision. On a CPU,
    where the run was on a CPU too, the numbers are the same; another device
    rounds, and drops units, in another way.

    Args:
        dump: A ``nonfinite_step_7.pth`` of a work directory.
        config: The config of the run, for instance the one that lies in its
            work directory.
        device: Where to compute.

    Returns:
        ReplayedStep: The terms and where the gradients break.

    Raises:
        FileNotFoundError: The dump or the config does not exist.
        ValueError: The file is no such dump, or of another model.
    """
    if not Path(dump).is_file():
        raise FileNotFoundError(f'dump not found: {dump}')
    content = torch.load(dump, map_location='cpu', weights_only=True)
    if not isinstance(content, dict) or 'batches' not in content:
        raise ValueError(f'{dump} is no dump of a step that was not finite')
    before = capture_random_states()
    try:
        model = _build(config, content['state_dict'], dump).to(device)
        terms = [
            _run(model.train(), batch, torch.device(device))
            for batch in content['batches']
        ]
    finally:
        restore_random_states(before)
    return ReplayedStep(
        step=content['step'],
        images=content['images'],
        recorded=[plain_terms(batch['terms']) for batch in content['batches']],
        terms=terms,
        gradients=non_finite_gradients(model),
        model=model,
    )


def _build(
    config: str | Path, state: dict[str, Any], dump: str | Path
) -> nn.Module:
    cfg = load_config(config)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f'{dump} holds the weights of another model than {config}: {error}'
        ) from error
    return model


def _run(
    model: Any, batch: dict[str, Any], device: torch.device
) -> dict[str, float]:
    restore_random_states(batch['random'])
    dtype = batch['autocast']
    with torch.autocast(
        device.type,
        dtype=getattr(torch, dtype) if dtype else None,
        enabled=dtype is not None,
    ):
        terms = model(
            *_unpack(batch['args'], device), **_unpack(batch['kwargs'], device)
        )
    model.parse_losses(terms)[0].backward()
    return plain_terms(terms)


def _unpack(value: Any, device: torch.device) -> Any:
    """Turns a dumped batch into what the model takes."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_unpack(item, device) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {SAMPLE}:
        fields = _unpack(value[SAMPLE], device)
        sample = DataSample()
        for name in ('gt_label', 'gt_score'):
            if name in fields:
                getattr(sample, f'set_{name}')(fields.pop(name))
        sample.set_metainfo(fields)
        return sample
    return {key: _unpack(item, device) for key, item in value.items()}
