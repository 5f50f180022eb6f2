r"""Follows a training and compares the gradients of its loss terms.

Example:
    python docs/results/gradient_shares.py configs/ltml_demo.py \
        --steps 605 --interval 40 --out shares.json
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ltml_cli import parse
from ltml_cli.options import add_cfg_options
from ltml_mm.apis import train
from ltml_mm.apis.cli import run_tool
from ltml_mm.engine.hooks.resume_state import (
    capture_random_states,
    restore_random_states,
)
from ltml_mm.evaluation.report import table
from ltml_mm.files import write_json


class _EnoughError(Exception):
    """All steps are measured."""


class GradientSharesHook(Hook):
    """Measures the gradient of each loss term before steps of a training.

    Random states and buffers are given back: the training is the same as
    without. In full precision, by one process, before gradients are clipped.

    Args:
        steps (int): Steps to follow; then the training is stopped.
        interval (int): Measures every so many of them.
    """

    priority = 'LOWEST'

    def __init__(self, steps: int, interval: int) -> None:
        self.steps = steps
        self.interval = interval
        self.count = 0
        self.measured: list[dict[str, Any]] = []

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Measures where it is time."""
        if self.count % self.interval == 0:
            result = measure(runner.model, data_batch)
            self.measured.append({'step': runner.iter + 1, **result})

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Stops after the last step."""
        self.count += 1
        if self.count >= self.steps:
            raise _EnoughError


def measure(model: Any, data_batch: Any) -> dict[str, Any]:
    """Compares the gradients of a model's loss terms on one batch.

    Args:
        model (BaseModel): In training mode; it stays as it is.
        data_batch: What the dataloader gives.

    Returns:
        dict: By term, ``norm``, the length of its gradient over all
        parameters, and ``share``, the part of the whole gradient g that is
        the term's, <g_term, g> / <g, g>: the shares add up to 1, and a term
        that pulls against the others has a negative one. By pair of terms,
        ``cosine``, of the angle between both gradients. None where a
        gradient is zero.
    """
    states = capture_random_states()
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    # A copy, since augmentations of the batch write into the samples.
    data: Any = model.data_preprocessor(copy.deepcopy(data_batch), True)
    try:
        terms = model(**data, mode='loss')
        losses = {name: terms[name] for name in terms if 'loss' in name}
        products = _products([*losses.values()], model)
    finally:
        restore_random_states(states)
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
    names = list(losses)
    norms = products.diagonal().sqrt()
    whole = products.sum()
    cosines = {
        f'{names[i]}, {names[j]}': _ratio(products[i, j], norms[i] * norms[j])
        for i, j in combinations(range(len(names)), 2)
    }
    return {
        'norm': dict(zip(names, norms.tolist(), strict=True)),
        'share': {
            name: _ratio(row.sum(), whole)
            for name, row in zip(names, products, strict=True)
        },
        'cosine': cosines,
    }


def follow(
    config: str,
    checkpoint: str | None,
    steps: int,
    interval: int = 1,
    cfg_options: dict | None = None,
) -> list[dict[str, Any]]:
    """Runs the first steps of a training, or those after a checkpoint.

    Args:
        config: The config file.
        checkpoint: Where to resume; it is of this training.
        steps: Steps to follow.
        interval: Measures every so many of them.
        cfg_options: Overrides of the config.

    Returns:
        list[dict]: What :func:`measure` returns, and ``step``, from 1.

    Raises:
        ValueError: A number is less than 1, or no step is left to take.
    """
    if steps < 1 or interval < 1:
        raise ValueError(
            f'steps and interval must be at least 1, got {steps}, {interval}'
        )
    hook = GradientSharesHook(steps, interval)
    with TemporaryDirectory() as folder:
        resume = ['--resume', checkpoint] if checkpoint else []
        args = parse(
            'train', [config, '--work-dir', folder, '--no-validate', *resume]
        )
        # The results of the training itself are not wanted.
        hooks = {'default_hooks.checkpoint': None}
        args.cfg_options = {**(cfg_options or {}), **hooks}
        cfg = train.training_config(args)
        # MMEngine would go on with the visualizer of a run of the same name
        # and second, which writes into that one's folder.
        cfg.experiment_name = Path(folder).name
        runner = Runner.from_cfg(cfg)
        runner.register_hook(hook)
        with suppress(_EnoughError):
            runner.train()
    if not hook.measured:
        raise ValueError(f'{checkpoint}: no step is left after it')
    return hook.measured


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of ``gradient_shares.py``."""
    parser = argparse.ArgumentParser(
        description='Follow a training and compare the gradients of its '
        'loss terms, step by step'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='where to resume the training; without, from its start',
    )
    parser.add_argument('--steps', type=int, default=50, help='to follow')
    parser.add_argument(
        '--interval', type=int, default=1, help='of steps that are measured'
    )
    parser.add_argument('--out', required=True, help='JSON file to write')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes every step and prints the means."""
    args = parse_args(argv)
    measured = follow(
        args.config,
        args.checkpoint,
        args.steps,
        args.interval,
        args.cfg_options,
    )
    content = {'config': args.config, 'checkpoint': args.checkpoint}
    write_json(args.out, {**content, 'steps': measured})
    steps = [record['step'] for record in measured]
    print(f'Mean of {len(steps)} steps, {steps[0]} to {steps[-1]}')
    rows = [
        [name, *(_mean(measured, key, name) for key in ('norm', 'share'))]
        for name in measured[0]['norm']
    ]
    print(table(['loss term', 'gradient norm', 'share'], rows))
    pairs = [[p, _mean(measured, 'cosine', p)] for p in measured[0]['cosine']]
    print(table(['loss terms', 'cosine'], pairs))


def _products(losses: list[Tensor], model: nn.Module) -> Tensor:
    """Scalar products of the terms' gradients, float64 (terms, terms)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
        if loss.requires_grad
        else [None] * len(parameters)
        for loss in losses
    ]
    products = torch.zeros(len(losses), len(losses), dtype=torch.float64)
    for parameter, parts in zip(
        parameters, zip(*gradients, strict=True), strict=True
    ):
        rows = torch.stack(
            [
                (torch.zeros_like(parameter) if g is None else g).flatten()
                for g in parts
            ]
        )
        products += (rows @ rows.T).double().cpu()
    return products


def _ratio(value: Tensor, by: Tensor) -> float | None:
    return float(value / by) if by > 0 else None


def _mean(measured: list[dict[str, Any]], key: str, name: str) -> str:
    values = [record[key][name] for record in measured]
    known = [value for value in values if value is not None]
    return f'{math.fsum(known) / len(known):.4g}' if known else 'none'


if __name__ == '__main__':
    run_tool(main)
