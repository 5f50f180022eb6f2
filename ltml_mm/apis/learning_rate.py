"""Fills in the learning rate that fits the classes and images of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from ltml_mm.apis.distributed import RANK_VARIABLES
from ltml_mm.models.collaborative import CollaborativeTwoBranchClassifier
from ltml_mm.models.losses import ClassMeanLoss, ClassStatisticsLoss

#: Of SGD with momentum 0.9 and 64 images a step, by the classes that the loss
#: averages over, to this power. Measured with 12, 20 and 80 classes: "Learning
#: rate" in docs/method.md.
RATE, POWER = 0.006, 0.75
#: Of a loss that sums over the classes: 80 times it is the rate of their mean.
SUM_RATE = 0.002
IMAGES = 64
#: What a config says to have its rate filled in.
KEY = 'optim_wrapper.optimizer.lr'
HELP = f'{KEY} is None, and no rate is known for this config'


class LearningRateHook(Hook):
    """Logs at the start of a training why its learning rate is what it is.

    Args:
        reason: See :func:`fill_learning_rate`.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def before_train(self, runner: Runner) -> None:
        """Logs the reason."""
        runner.logger.info(self.reason)


def fill_learning_rate(cfg: Config) -> str | None:
    """Sets a learning rate of None, in place, and says why it is that.

    The losses of LTML are means over the K classes. The gradient of a class's
    own weights shrinks as 1 / K, that of the features less, so the rate grows
    with K to the power of 3/4. It grows with the images of a step, too: of all
    streams, processes and accumulated batches. Where ``auto_scale_lr`` is
    enabled, the Runner multiplies by the batches of all processes over
    ``base_batch_size``, so the rate is that of the base. A config that has a
    rate or trains nothing stays, and None is returned.

    Raises:
        ValueError: The rate is text; or None and the optimizer is not SGD,
            whose step alone follows the scale of the loss, or the config does
            not say how many classes or images there are.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    loader = cfg.get('train_dataloader')
    model = cfg.get('model')
    given = optimizer.get('lr', 0)
    if isinstance(given, str):  # A factor of a group would multiply it.
        raise ValueError(f'{KEY} must be a number or None, got {given!r}')
    if given is not None or not loader or not model:
        return None
    if optimizer.get('type') != 'SGD':
        raise ValueError(
            f'{HELP}: the step of {optimizer.get("type")} does not follow '
            f'the scale of the loss as that of SGD does; set one, such as '
            f'--cfg-options {KEY}=0.0001'
        )
    classes = _averaged_classes(model)
    if classes is not None and classes < 1:
        return None  # The model will refuse it.
    images, parts = _images_of_a_step(cfg)
    # One gradient moves the weights by rate / (1 - momentum) in the end.
    scale = (1 - optimizer.get('momentum', 0)) / 0.1
    if classes is None:
        scale *= SUM_RATE
        factor = '(the loss is a sum over the classes)'
    else:
        scale *= RATE
        factor = f'x {classes}^{POWER} classes that the loss averages over'
    rate = float(f'{scale * (classes or 1) ** POWER * images / IMAGES:.4g}')
    optimizer['lr'] = rate
    return (
        f'learning rate {rate:g} = {scale:g} {factor} '
        f'x {images} images of a step ({parts}) / '
        f'{IMAGES}; for another one: --cfg-options {KEY}=RATE'
    )


def build_runner(
    cfg: Config, build: Callable[[Config], Any] = RUNNERS.build
) -> Any:
    """Builds a runner, of whatever type, with a rate of None filled in."""
    reason = fill_learning_rate(cfg)
    runner = build(cfg)
    if reason is not None:
        runner.register_hook(LearningRateHook(reason))
    return runner


def _averaged_classes(model: Mapping[str, Any]) -> int | None:
    """Returns K, or None where the loss is a sum over the classes."""
    head = model.get('head') or {}
    loss = MODELS.get(str((head.get('loss') or {}).get('type')))
    network = MODELS.get(str(model.get('type')))
    if not (
        issubclass(network or object, CollaborativeTwoBranchClassifier)
        or issubclass(loss or object, (ClassMeanLoss, ClassStatisticsLoss))
    ):
        return None  # MMPretrain's heads have MMPretrain's losses sum
    classes = model.get('num_classes', head.get('num_classes'))
    if not isinstance(classes, int):
        raise ValueError(f'{HELP}: the model has no num_classes')
    return classes


def _images_of_a_step(cfg: Config) -> tuple[int, str]:
    """Returns the images between two steps of the optimizer, and factors."""
    loader = cfg.train_dataloader
    batch = loader.get('batch_size')
    if batch is None:
        raise ValueError(f'{HELP}: train_dataloader has no batch_size')
    processes = count_processes(cfg.get('launcher') or 'none')
    auto = cfg.get('auto_scale_lr') or {}
    if auto.get('enable'):
        batch, processes = auto['base_batch_size'], 1
    factors = {
        'a batch': batch,
        'streams': len((loader.get('sampler') or {}).get('streams') or '1'),
        'processes': processes,
        'batches accumulated': cfg.optim_wrapper.get('accumulative_counts', 1),
    }
    shown = ', '.join(f'{n} {name}' for name, n in factors.items() if n > 1)
    return math.prod(factors.values()), shown


def count_processes(launcher: str) -> int:
    """Returns the number of processes, also before their group is made."""
    if launcher == 'none' or torch.distributed.is_initialized():
        return get_world_size()
    return int(os.environ.get(RANK_VARIABLES[launcher][1], 1))
