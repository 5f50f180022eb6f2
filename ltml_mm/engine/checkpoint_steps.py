"""When checkpoints are saved, and whether they may be."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ltml_mm.engine.run_facts import accumulated_steps


def checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    """Returns the hooks of a runner that save checkpoints."""
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def saves_now(runner: Runner, by_epoch: bool) -> bool:
    """Whether a hook saves after the current step, or epoch."""
    return any(
        _saves(hook, runner)
        for hook in checkpoint_hooks(runner)
        if hook.by_epoch == by_epoch
    )


def _saves(hook: CheckpointHook, runner: Runner) -> bool:
    period = hook.interval, hook.save_begin
    if hook.by_epoch:
        last = hook.is_last_train_epoch(runner)
        due = hook.every_n_epochs(runner, *period)
    else:
        last = hook.is_last_train_iter(runner)
        due = hook.every_n_train_iters(runner, *period)
    return due or (hook.save_last and last)


def check_accumulation(runner: Runner) -> None:
    """Refuses checkpoints between two steps of the optimizer.

    Such a checkpoint would lose the gradients accumulated so far. The end
    of the run is no such moment: the optimizer always steps there.

    Args:
        runner: The runner, its optimizer and train loop built.

    Raises:
        ValueError: A checkpoint interval is no multiple of the accumulated
            steps.
    """
    counts = accumulated_steps(runner)
    if counts == 1:
        return
    for what, interval, begin in _save_moments(runner):
        first = begin or interval
        if interval < 1 or first >= runner.max_iters:
            continue
        for step in (interval, begin):
            if step % counts:
                raise ValueError(
                    f'{what} are saved after {step} steps, but the optimizer '
                    'accumulates gradients over accumulative_counts='
                    f'{counts} steps: those of the last {step % counts} '
                    'would be lost on resume. Let checkpoints, and '
                    'validations that save the best, fall on multiples of it '
                    '(default_hooks.checkpoint.by_epoch=False counts steps), '
                    'or change optim_wrapper.accumulative_counts'
                )


def _save_moments(runner: Runner) -> Iterator[tuple[str, int, int]]:
    """Yields what is saved, its interval and its beginning, in steps."""
    loop = runner.train_loop
    steps = len(loop.dataloader)
    for hook in checkpoint_hooks(runner):
        unit = steps if hook.by_epoch else 1
        yield 'checkpoints', hook.interval * unit, hook.save_begin * unit
        if hook.save_best and runner.val_loop is not None:
            # A new best one saves the last one again.
            unit = steps if isinstance(loop, EpochBasedTrainLoop) else 1
            yield 'best checkpoints', loop.val_interval * unit, 0
