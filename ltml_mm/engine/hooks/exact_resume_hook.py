"""Makes a resumed run continue exactly where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from ltml_mm._stack import find_stack
from ltml_mm.datasets.samplers import StreamSampler
from ltml_mm.engine.hooks import resume_state

#: The key of a checkpoint under which this hook keeps its part.
KEY = 'exact_resume'
#: So many differences between two runs are named.
SHOWN = 6


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Saves in checkpoints, and restores, what an exact resume needs.

    Stock checkpoints hold weights, optimizer, schedules and logs. This hook
    adds every process's random states and buffers, the seed of the sampler
    and a signature that both runs must share. With it, on a CPU, a run that
    was stopped and resumed ends bitwise as one that was not:

    - Between two epochs, and inside one: the samplers of this package
      continue at the very next index, without loading what came before.
    - A validation that was due when the checkpoint was written, but is not
      part of it, is run first.
    - Validations and new data iterators leave the random states alone.

    Args:
        on_change (str): ``'error'`` refuses to resume with other settings
            that shape the training, another number of processes or other
            images. ``'warn'`` names the changes and goes on with the new
            settings, and with the rates that they give for the step; at the
            start of the epoch where the data differ. Defaults to
            ``'error'``.

    Raises:
        ValueError: ``on_change`` is neither.
    """

    # After whatever changes the state of the run, DistSamplerSeedHook's
    # set_epoch included, and before CheckpointHook.
    priority = 80

    def __init__(self, on_change: str = 'error') -> None:
        if on_change not in ('error', 'warn'):
            raise ValueError(
                f"on_change must be 'error' or 'warn', got {on_change!r}"
            )
        self.on_change = on_change
        self._signature: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._resuming = False
        self._same_data = True
        self._before_validation: dict[str, Any] | None = None
        self._gathered: list[dict[str, Any]] | None = None

    @property
    def compares(self) -> bool:
        """Whether the loaded checkpoint has settings to compare."""
        return self._loaded is not None

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the run with the one it resumes.

        Raises:
            ValueError: They differ; names settings and both values.
        """
        if not runner._resume:
            return
        self._resuming = True
        self._loaded = checkpoint.get(KEY)
        if self._loaded is None:
            self._same_data = False
            runner.logger.warning(
                'the checkpoint was saved without ExactResumeHook: it holds '
                'no random states and no settings to compare, and the run '
                'goes on without them'
            )
            return
        states = self._loaded['ranks'][0]['random']
        if not isinstance(states['python'], tuple):
            raise ValueError(
                'an earlier version saved the checkpoint; start a training '
                'from its weights with --cfg-options load_from=CHECKPOINT in '
                'place of --resume'
            )
        self._signature = resume_state.run_signature(runner)
        changes = resume_state.compare_signatures(
            self._loaded['facts'], self._signature
        )
        if not changes:
            return
        shown = [*changes.values()][:SHOWN]
        message = (
            'the run differs from the one it resumes (checkpoint -> config): '
            f'{"; ".join(shown)}{", ..." if len(changes) > SHOWN else ""}'
        )
        if self.on_change == 'error':
            raise ValueError(
                f'{message}. Undo the change; or go on with the new settings, '
                'though not exactly, with --cfg-options '
                'default_hooks.exact_resume.on_change=warn; or start a new '
                'training from these weights with --cfg-options '
                'load_from=CHECKPOINT in place of --resume'
            )
        self._same_data = not any(
            k.startswith(resume_state.DATA_PREFIXES) for k in changes
        )
        runner.logger.warning(f'{message}. It goes on with those, as asked')
        if any(key.endswith('seed') for key in changes):
            self._loaded['seed'] = _seed(runner)
        resume_state.follow_config(runner, checkpoint, changes)

    def before_train(self, runner: Runner) -> None:
        """Prepares the data, and checks when checkpoints are saved.

        Raises:
            ValueError: A checkpoint would come between the optimizer's steps.
        """
        check_accumulation(runner)
        self._signature = self._signature or resume_state.run_signature(runner)
        loader = runner.train_dataloader
        sampler = stream_sampler(loader)
        if sampler is not None:
            sampler.pass_length = len(loader) * loader.batch_sampler.batch_size
        if loader.generator is None:
            # The iterators' base seed would come from the global generator,
            # once a run or once an epoch as persistent_workers says.
            loader.generator = torch.Generator()
        if self._loaded is not None:
            self._restore_seed(runner, self._loaded['seed'])

    def before_train_epoch(self, runner: Runner) -> None:
        """Restores the states of a resumed run and continues its epoch."""
        if not self._resuming:
            return
        self._resuming = False
        # Not in before_train, where other hooks may still draw.
        if self._loaded is not None:
            resume_state.restore_states(runner, self._loaded['ranks'])
        self._validate(runner)
        self._continue_epoch(runner)

    def before_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Forgets the states of the last checkpoints, best ones included."""
        self._gathered = None

    def after_train_epoch(self, runner: Runner) -> None:
        """Counts the steps of the next epoch from its start again."""
        vars(runner.train_loop).pop('run_iter', None)

    def after_train(self, runner: Runner) -> None:
        """Validates a run that was stopped in its last validation."""
        if self._resuming:
            self._resuming = False
            self._validate(runner)

    def before_val(self, runner: Runner) -> None:
        """Keeps the random states of the training."""
        self._before_validation = resume_state.capture_random_states()

    def after_val(self, runner: Runner) -> None:
        """Restores the random states of the training."""
        if self._before_validation is not None:
            resume_state.restore_random_states(self._before_validation)
        self._before_validation = None

    def gather(self, runner: Runner) -> None:
        """Collects the states of all processes; all of them must call it."""
        # Inside a validation the training's are those from before it.
        states = (
            self._before_validation or resume_state.capture_random_states()
        )
        self._gathered = resume_state.gather_states(runner, states)

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Adds this hook's part to a checkpoint."""
        # Only process 0 comes here: it cannot ask the others any more.
        if runner.world_size == 1:
            self.gather(runner)
        if self._gathered is None:
            runner.logger.warning(
                'this checkpoint holds no random states: on several processes '
                'that takes SafeCheckpointHook, or ExactResumeHook.gather() '
                'on all of them before'
            )
            return
        checkpoint[KEY] = {
            'ranks': self._gathered,
            'seed': _seed(runner),
            'facts': self._signature,
            'validated': self._before_validation is not None,
        }

    def _restore_seed(self, runner: Runner, seed: Any) -> None:
        if seed == _seed(runner):
            return
        runner.logger.warning(
            f'the sampler goes on with seed {seed} of the checkpoint, not '
            f'with {_seed(runner)}'
        )
        sampler = stream_sampler(runner.train_dataloader)
        if sampler is not None:
            sampler.set_seed(seed)
        else:
            runner.train_dataloader.sampler.seed = seed

    def _validate(self, runner: Runner) -> None:
        """Runs the validation that fell between checkpoint and stop."""
        validated = self._loaded is None or self._loaded['validated']
        if runner.val_loop is None or validated:
            return
        loop = runner.train_loop
        step, last = loop.iter, loop.max_iters
        if isinstance(loop, EpochBasedTrainLoop):
            if step != loop.epoch * len(loop.dataloader):
                return
            step, last = loop.epoch, loop.max_epochs
        due = step % loop.val_interval == 0 or step == last
        if step > 0 and step >= loop.val_begin and due:
            runner.logger.info(
                'The checkpoint was written before its validation, which is '
                'run now'
            )
            runner.val_loop.run()

    def _continue_epoch(self, runner: Runner) -> None:
        """Leaves out the steps of this epoch that were trained already."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        start = loop.epoch * len(loop.dataloader) if by_epoch else 0
        done = loop.iter - start
        if done == 0:
            return
        if find_stack() != 'onedl':
            runner.logger.warning(
                'a resume inside an epoch is not promised to be exact on the '
                'original MMEngine; resume after an epoch, or install the '
                'OneDL builds'
            )
        if not by_epoch:
            return  # The loop itself advances the data.
        sampler = stream_sampler(loop.dataloader)
        known = 0 < done <= len(loop.dataloader)
        if sampler is None or not known or not self._same_data:
            runner.logger.warning(
                f'the checkpoint was saved inside epoch {loop.epoch + 1}, '
                'which starts anew: part of its images is seen twice'
            )
            return
        sampler.start_at(done * loop.dataloader.batch_sampler.batch_size)
        run_iter = loop.run_iter
        # Hooks count the steps within an epoch, the log interval for one.
        loop.run_iter = lambda index, batch: run_iter(index + done, batch)


def stream_sampler(loader: Any) -> StreamSampler | None:
    """Returns a dataloader's sampler if it can start at any position."""
    batches = loader.batch_sampler
    # Another class may make anything of the positions.
    sampler = batches.sampler if type(batches) is BatchSampler else None
    return sampler if isinstance(sampler, StreamSampler) else None


def _seed(runner: Runner) -> int | None:
    loader = runner.train_dataloader
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    return getattr(sampler, 'seed', None)


def check_accumulation(runner: Runner) -> None:
    """Refuses checkpoints between two steps of the optimizer.

    Such a checkpoint would lose the gradients accumulated so far. The end
    of the run is no such moment: the optimizer always steps there.

    Raises:
        ValueError: A checkpoint would come between the optimizer's steps.
    """
    counts = resume_state.accumulated_steps(runner)
    for step in _save_steps(runner):
        if step % counts:
            raise ValueError(
                f'a checkpoint is saved after {step} steps, but the optimizer '
                f'accumulates gradients over accumulative_counts={counts} '
                f'steps: those of the last {step % counts} would be lost on '
                'resume. Let checkpoints, and validations that save the best, '
                'fall on multiples of it (default_hooks.checkpoint.by_epoch='
                'False counts steps), or change '
                'optim_wrapper.accumulative_counts'
            )


def _save_steps(runner: Runner) -> Iterator[int]:
    """Yields the intervals of saving, and their beginnings, in steps."""
    loop = runner.train_loop
    epoch = len(loop.dataloader)
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        unit = epoch if hook.by_epoch else 1
        moments = [(hook.interval * unit, hook.save_begin * unit)]
        if hook.save_best and runner.val_loop is not None:
            # A new best one saves the last one again.
            unit = epoch if isinstance(loop, EpochBasedTrainLoop) else 1
            moments.append((loop.val_interval * unit, 0))
        for interval, begin in moments:
            if interval > 0 and (begin or interval) < runner.max_iters:
                yield from (interval, begin)
