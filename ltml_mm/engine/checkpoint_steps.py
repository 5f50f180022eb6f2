"""When checkpoints are saved, and whether they may be."""

from __future__ import annotations

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

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
    loop = runner.train_loop
    steps_of_epoch = len(loop.dataloader)
    for hook in checkpoint_hooks(runner):
        unit = steps_of_epoch if hook.by_epoch else 1
        first = hook.save_begin or hook.interval
        if hook.interval < 1 or first * unit >= runner.max_iters:
            continue
        for value in (hook.interval * unit, hook.save_begin * unit):
            if value % counts:
                raise ValueError(_message(hook, value, unit, counts))


def _message(hook: CheckpointHook, value: int, unit: int, counts: int) -> str:
    what = (
        f'every {hook.interval} epoch(s) of {unit} steps'
        if hook.by_epoch
        else f'every {hook.interval} steps'
    )
    if hook.save_begin:
        what += f', from {hook.save_begin} on'
    return (
        f'checkpoints are saved {what}, but the optimizer accumulates '
        f'gradients over accumulative_counts={counts} steps: a checkpoint '
        f'after {value} steps would lose those accumulated since its last '
        'step. Choose default_hooks.checkpoint.interval and '
        'optim_wrapper.accumulative_counts such that one is a multiple of '
        'the other in steps'
    )
