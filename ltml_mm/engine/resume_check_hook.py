"""Refuses to resume from a checkpoint of another model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

SHOWN = 5


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Checks that a resumed checkpoint fits the model key by key.

    MMEngine loads what fits and logs the rest, which is right for
    ``load_from`` (a plain backbone, say) and wrong for ``--resume``, where
    part of the model would silently start anew.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the names and shapes of a checkpoint to resume from.

        Args:
            runner: The runner.
            checkpoint: The loaded checkpoint, ``state_dict`` in it.

        Raises:
            ValueError: They differ; names the first of them and
                ``load_from``.
        """
        if not runner._resume:
            return
        model: Any = runner.model
        model = model.module if is_model_wrapper(model) else model
        expected = {k: v.shape for k, v in model.state_dict().items()}
        found = {k: v.shape for k, v in checkpoint['state_dict'].items()}
        problems = [
            *(f'{k} is missing' for k in expected.keys() - found.keys()),
            *(f'{k} is unexpected' for k in found.keys() - expected.keys()),
            *(
                f'{k} has shape {tuple(found[k])} instead of '
                f'{tuple(expected[k])}'
                for k in expected.keys() & found.keys()
                if expected[k] != found[k]
            ),
        ]
        if not problems:
            return
        shown = '; '.join(sorted(problems)[:SHOWN])
        source = runner._load_from or 'the latest checkpoint'
        raise ValueError(
            f'cannot resume from {source}: it is a checkpoint of '
            f'another model ({len(problems)} differences: {shown}). To start '
            'a new training from its weights, use --cfg-options '
            'load_from=CHECKPOINT in place of --resume'
        )
