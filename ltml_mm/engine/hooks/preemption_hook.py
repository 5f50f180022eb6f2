"""Stops a training in good order when a scheduler asks for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.distributed import new_group
from torch.utils.data import DataLoader

from ltml_mm.engine.hooks.checkpoint_hooks import SafeCheckpointHook
from ltml_mm.engine.hooks.resume_state import accumulated_steps


class TrainingStopped(SystemExit):
    """A training ended early, in good order, because a signal asked for it.

    The exit status is 128 + the signal's number: 143 for SIGTERM.

    Attributes:
        together (bool): Whether all processes stop at this very place.
    """

    def __init__(self, signum: int, together: bool) -> None:
        super().__init__(128 + signum)
        self.together = together


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint and ends the run when a scheduler sends a signal.

    The signal is only noted. After the step that is being trained the
    processes tell each other (one number, each step); if any of them was
    signalled, all save a checkpoint together, process 0 says where, and the
    run ends with status 128 + the signal's number. With ``--resume`` it goes
    on. Data workers ignore the signal, unless it comes from the process that
    they work for; persistent ones are ended at the end of a training.

    - An optimizer that accumulates gradients finishes its step first.
    - After an epoch's last step the checkpoint is that of the epoch, inside
      an epoch ``iter_37.pth``, which is removed after the next one.
    - A validation is broken off where a checkpoint of its step is there; it
      is run on resume. Otherwise it is finished, and so is the next step.

    It needs :class:`SafeCheckpointHook`.

    Args:
        signals (Sequence[str]): Names of signals. Add ``'SIGUSR1'`` for
            schedulers that are told to send it, as by ``sbatch
            --signal=USR1@120``. Defaults to ``('SIGTERM', 'SIGINT')``; a
            second Ctrl-C ends the run at once.

    Raises:
        ValueError: There is no signal of such a name, or none to listen to.
    """

    # After CheckpointHook.
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGINT')) -> None:
        # Nobody can listen to those two, which Windows does not have.
        known = dict(signal.Signals.__members__)
        known.pop('SIGKILL', None)
        known.pop('SIGSTOP', None)
        if isinstance(signals, str) or not known.keys() >= set(signals):
            raise ValueError(
                'signals must be a list of names such as SIGTERM and SIGUSR1, '
                f'got {signals!r}'
            )
        self._signals = [known[name] for name in signals]
        self._received, self._since = 0, 0.0
        self._checkpoint: SafeCheckpointHook | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def before_train(self, runner: Runner) -> None:
        """Installs the signal handlers."""
        hooks = [h for h in runner.hooks if isinstance(h, SafeCheckpointHook)]
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone.
        if not hooks:
            runner.logger.warning(
                'without SafeCheckpointHook, PreemptionHook does nothing: a '
                'signal of the scheduler ends the run at once'
            )
            return
        self._received = 0
        if is_distributed() and self._group is None:
            # A number of the host: over nccl it would wait for the GPU.
            self._group = new_group(backend='gloo')
        self._checkpoint = hooks[0]
        for loader in _loaders(runner):
            shield_workers(loader, self._signals)
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._note)

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Stops after a step, but for an epoch's last one."""
        if self._checkpoint is None:
            return
        done = runner.iter + 1
        loader = runner.train_dataloader
        if not (self._by_epoch(runner) and done % len(loader) == 0):
            self._stop_if_asked(runner, done, by_epoch=False)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stops after an epoch."""
        if self._by_epoch(runner):
            self._stop_if_asked(runner, runner.iter, by_epoch=True)

    def after_val_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Stops inside a validation, if nothing is lost by it.

        Without asking the others, which may have another number of batches.
        """
        checkpoint = self._checkpoint
        if self._received and checkpoint and checkpoint.holds(runner.iter):
            path = str(checkpoint.last_ckpt or runner._load_from)
            self._stop(runner, runner.iter, path, together=False)

    def after_train(self, runner: Runner) -> None:
        """Restores the signal handlers and ends the data workers."""
        self._checkpoint = None
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous.clear()
        for loader in _loaders(runner):
            end_workers(loader)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        # A launcher and the terminal may both send the first one.
        again = self._received == signal.SIGINT and now - self._since > 1
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if not self._received:
            self._received, self._since = number, now

    def _by_epoch(self, runner: Runner) -> bool:
        """Whether epochs and their checkpoints end together."""
        loop = isinstance(runner.train_loop, EpochBasedTrainLoop)
        return bool(self._checkpoint and self._checkpoint.by_epoch and loop)

    def _stop_if_asked(
        self, runner: Runner, done: int, by_epoch: bool
    ) -> None:
        if self._checkpoint is None or done % accumulated_steps(runner):
            return
        number = torch.tensor(self._received)
        all_reduce(number, 'max', self._group)
        if number:  # Else one that has come meanwhile waits for the next step.
            self._received = int(number)
            path = self._checkpoint.save_now(runner, by_epoch)
            self._stop(runner, done, path, together=True)

    def _stop(
        self, runner: Runner, done: int, path: str, together: bool
    ) -> NoReturn:
        runner.logger.warning(
            f'{signal.Signals(self._received).name}: the training stops after '
            f'step {done}, which {path} holds. The same command with --resume '
            'goes on from there'
        )
        for loader in _loaders(runner):
            end_workers(loader)
        runner.call_hook('after_run')
        raise TrainingStopped(self._received, together)


def _loaders(runner: Runner) -> Iterator[DataLoader]:
    for loop in (runner.train_loop, runner.val_loop):
        loader = getattr(loop, 'dataloader', None)
        if isinstance(loader, DataLoader):
            yield loader


def shield_workers(loader: DataLoader, signals: Sequence[int]) -> None:
    """Makes future workers ignore signals unless this process sends them.

    A scheduler sends its signal to every process of a job. A worker that
    died of it would end the training before the checkpoint.
    """
    loader.worker_init_fn = partial(
        _start, loader.worker_init_fn, signals, os.getpid()
    )


def end_workers(loader: DataLoader) -> None:
    """Shuts down the persistent workers; the next iterator starts others.

    At the end of the process, Python would kill them before they clean up,
    and torch, with pinned memory, would wait 5 seconds for each.
    """
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _start(
    init: Callable[[int], None] | None,
    signals: Sequence[int],
    parent: int,
    worker_id: int,
) -> None:
    if hasattr(signal, 'sigwaitinfo'):  # Not on macOS.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(
            target=_wait_for_parent, args=(signals, parent), daemon=True
        ).start()
    if init is not None:
        init(worker_id)


def _wait_for_parent(signals: Sequence[int], parent: int) -> None:
    """Ends the worker when a signal comes from the process it works for.

    To ignore them all would let that process wait for ever at its end.
    """
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    os._exit(0)
