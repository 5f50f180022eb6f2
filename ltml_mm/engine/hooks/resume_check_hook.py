"""Refuses to load a checkpoint of another model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ltml_mm.models.fork.branches import plain_name

SHOWN = 5
#: Tables of positions, which MMPretrain resizes to the images at hand.
RESIZED = re.compile('pos_embed|position|coords_table|attn_mask')


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Checks that a checkpoint fits the model key by key.

    MMEngine loads what fits and logs the rest. On ``--resume`` part of the
    model would silently start anew, and a test would evaluate it so: there
    every key has to fit. With ``load_from`` heads may be others, those of
    another number of classes, say; but the weights of another backbone are
    refused, where most are missing or one has another shape.

    Args:
        whole (bool): Whether every key has to fit for ``load_from``, too, as
            in a test. Defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the names and shapes of a checkpoint with the model's.

        Args:
            runner: The runner.
            checkpoint: The loaded checkpoint, ``state_dict`` in it.

        Raises:
            ValueError: They differ; names the first of them and what to do.
        """
        expected = _shapes(_unwrapped(runner.model).state_dict())
        found = _shapes(checkpoint['state_dict'])
        if runner._resume:
            problems = _differences(expected, found)
            start, mend = (
                'cannot resume from',
                (
                    'To start a new training from its weights, use '
                    '--cfg-options load_from=CHECKPOINT in place of --resume'
                ),
            )
        elif self.whole:
            problems = _differences(expected, found)
            start, mend = (
                'cannot evaluate',
                ('Give the config that it was trained with'),
            )
        else:
            problems = _other_backbone(expected, found)
            start, mend = (
                'cannot load',
                (
                    'For weights of a backbone alone, use '
                    "model.backbone.init_cfg=dict(type='Pretrained', "
                    'checkpoint=...) in place of load_from'
                ),
            )
        if not problems:
            return
        shown = '; '.join(sorted(problems)[:SHOWN])
        source = runner._load_from or 'the latest checkpoint'
        raise ValueError(
            f'{start} {source}: it is a checkpoint of another model '
            f'({len(problems)} differences: {shown}). {mend}'
        )


def _unwrapped(model: Any) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    # MMEngine ignores this prefix, too.
    return {
        re.sub(r'^module\.', '', key): tuple(value.shape)
        for key, value in state_dict.items()
    }


def _differences(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]
) -> list[str]:
    return [
        *(f'{k} is missing' for k in expected.keys() - found.keys()),
        *(f'{k} is unexpected' for k in found.keys() - expected.keys()),
        *(
            f'{k} has shape {found[k]} instead of {expected[k]}'
            for k in expected.keys() & found.keys()
            if expected[k] != found[k]
        ),
    ]


def _other_backbone(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]
) -> list[str]:
    """Lists what tells another backbone; nothing where it is the same."""
    missing, changed = [], []
    names = [key for key in expected if key.startswith('backbone.')]
    for name in names:
        # A plain checkpoint goes to both branches.
        key = name if name in found else plain_name(name)
        if key not in found:
            missing.append(f'{name} is missing')
        elif found[key] != expected[name] and not RESIZED.search(name):
            changed.append(
                f'{key} has shape {found[key]} instead of {expected[name]}'
            )
    return changed + (missing if 2 * len(missing) > len(names) else [])
