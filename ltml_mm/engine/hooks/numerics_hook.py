"""Watches the numbers of a training."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.engine.optimizers.guarded_optim_wrapper import GuardedOptimWrapper

SCALES = ('pos_scale', 'neg_scale')


@HOOKS.register_module()
class NumericsHook(Hook):
    """Tells the guarded wrapper where dumps go, and watches the scales.

    The learnable scales of the logit compensation start at 1. One that
    leaves the range shrinks a class's logits to nothing, lets single images
    dominate, or, below 0, turns the class's meaning around. Each is named
    in a warning once; training goes on.

    Args:
        low (float): The least scale that is not worth a warning. Defaults
            to 0.1.
        high (float): The largest. Defaults to 10.
        interval (int): Steps between two looks, each of which waits for the
            GPU. Defaults to 50.

    Raises:
        ValueError: ``low`` is not less than ``high``, or ``interval`` less
            than 1.
    """

    def __init__(
        self, low: float = 0.1, high: float = 10.0, interval: int = 50
    ) -> None:
        if not low < high:
            raise ValueError(f'low must be less than high, got {low}, {high}')
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.low = low
        self.high = high
        self.interval = interval
        self._told: set[tuple[str, int]] = set()

    def before_train(self, runner: Runner) -> None:
        """Names the folder of dumps."""
        if isinstance(runner.optim_wrapper, GuardedOptimWrapper):
            runner.optim_wrapper.dump_dir = runner.work_dir

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Looks at the scales now and then."""
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Looks at the scales once more."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        scales = compensation_scales(runner.model)
        if not scales:
            return
        values = torch.stack([*scales.values()]).cpu()
        strange = ~((values >= self.low) & (values <= self.high))
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        classes = metainfo.get('classes')
        names = list(scales)
        found = []
        for row, k in strange.nonzero().tolist():
            if (names[row], k) not in self._told:
                self._told.add((names[row], k))
                label = classes[k] if classes else f'class {k}'
                found.append(f'{names[row]} of {label}: {values[row, k]:.3g}')
        if found:
            runner.logger.warning(
                f'learnable scales left the range {self.low} to {self.high} '
                f'by step {runner.iter + 1}: {"; ".join(found)}. A smaller '
                "learning rate or loss_cls.compensation='statistics' keeps "
                'them nearer to 1'
            )


def compensation_scales(model: torch.nn.Module) -> dict[str, Tensor]:
    """Returns the learnable scales of a model's losses.

    Args:
        model: The model, or what wraps it for several processes.

    Returns:
        dict[str, Tensor]: Of shape (K,), by parameter name.
    """
    return {
        name: parameter.detach()
        for name, parameter in unwrap_model(model).named_parameters()
        if name.split('.')[-1] in SCALES
    }
