"""The screen of a run: what a person needs; the log file keeps all."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TextIO

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.datasets.annotations import training_metainfo
from ltml_mm.engine.hooks.late_values import LateHistory
from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.evaluation.grouped_average_precision import group_bounds

#: Seconds after which a screen that is no terminal shows a line again.
SILENCE = 9.0
#: Lines of MMEngine that go to the log alone.
NOISE = re.compile(
    r'Loads checkpoint by \w+ backend|will be deprecated in future'
)
#: How MMEngine begins a warning, with its colours.
WARNING = re.compile(r'- (?:\x1b\[\S*?m)?WARNING(?:\x1b\[\S*?m)? - (.*)')


class Screen(io.TextIOBase):
    """Shows lines that stay, and a status.

    On a terminal the status is one line that is redrawn. Elsewhere it is
    printed, but only where nothing else was for :data:`SILENCE` seconds.
    What is printed to it as to a stream stays, but for :data:`NOISE`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._lock = threading.Lock()
        self._shown = self._rest = ''
        self._last = time.monotonic()
        self._process = os.getpid()

    def line(self, text: str) -> None:
        """Shows lines that stay."""
        self._put(f'{text}\n', '')

    def status(self, describe: Callable[[], str]) -> None:
        """Shows how far the run has come, described where it is time to."""
        silent = time.monotonic() - self._last
        if self._terminal and silent >= 0.2:
            self._put('', describe()[: get_terminal_size().columns - 1])
        elif not self._terminal and silent >= SILENCE:
            self.line(describe())

    def write(self, text: str) -> int:
        """Takes what others print."""
        if os.getpid() != self._process:  # A data worker: no lock of ours.
            return self._stream.write(text)
        *lines, self._rest = (self._rest + text).split('\n')
        for line in lines:
            if not NOISE.search(line):
                self.line(line)
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        # A logger keeps its screen, whose stream another run may have closed.
        if not getattr(self._stream, 'closed', False):
            self._stream.flush()

    def fileno(self) -> int:
        """Returns that of the stream behind."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self._terminal

    def close_status(self) -> None:
        """Takes the status away."""
        self._put('', '')

    def _put(self, lines: str, status: str) -> None:
        with self._lock:
            clear = '\r\x1b[K' if self._shown else ''
            if self._terminal and lines and not status:
                text = clear + lines + self._shown
            else:
                text = clear + lines + status
                self._shown = status
            if text:
                encoding = getattr(self._stream, 'encoding', None) or 'utf-8'
                safe = text.encode(encoding, 'backslashreplace')
                self._stream.write(safe.decode(encoding))
                self._stream.flush()
            self._last = time.monotonic()


@contextmanager
def quiet_run(
    build: Callable[[], Runner], verbose: bool = False
) -> Iterator[Runner]:
    """Builds a Runner whose log goes to its file, warnings to the screen, too.

    Process 0 shows data, model, progress and time left, the others errors
    alone. With ``verbose`` the screen shows the whole log, as MMEngine does.
    """
    if verbose:
        yield build()
        return
    screen = Screen(sys.stdout)
    caught = io.StringIO()
    shown = warnings.showwarning
    recorded = warnings.catch_warnings(record=True)
    with redirect_stdout(caught), recorded as early:
        runner = build()
    for words in WARNING.findall(caught.getvalue()):
        if not NOISE.search(words):
            screen.line(f'WARNING: {words}')

    def show(message: Any, category: Any, filename: str, *_: Any) -> None:
        own = Path(filename).is_relative_to(Path(__file__).parents[1])
        level = logging.WARNING if own else logging.INFO
        runner.logger.log(level, f'{category.__name__}: {message}')

    for one in early:
        show(one.message, one.category, one.filename, one.lineno)
    for handler in runner.logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(screen)
            if is_main_process():  # Whatever the log_level of the file.
                handler.setLevel(logging.INFO)
            handler.addFilter(_is_for_screen)
            handler.setFormatter(_ScreenFormatter())
    progress = None
    if is_main_process():
        progress = ProgressHook(screen)
        runner.register_hook(progress, 'LOWEST')
    warnings.showwarning = show  # type: ignore[assignment]
    try:
        with redirect_stdout(screen if progress else io.StringIO()):
            yield runner
    finally:
        warnings.showwarning = shown
        if progress:
            progress.end()


def _is_for_screen(record: logging.LogRecord) -> bool:
    meant = record.levelno >= logging.WARNING or hasattr(record, 'screen')
    return meant and not NOISE.search(record.getMessage())


class _ScreenFormatter(logging.Formatter):
    """Shows a message by itself, and the level of a warning."""

    def format(self, record: logging.LogRecord) -> str:
        words = record.getMessage()
        warns = record.levelno >= logging.WARNING
        return f'{record.levelname}: {words}' if warns else words


class ProgressHook(Hook):
    """Shows what a run consists of, how far it is, and the time left.

    Args:
        screen: Where.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._describe: Callable[[], str] | None = None
        self._ended: threading.Event | None = None
        self._clock = _Clock()

    def before_train(self, runner: Runner) -> None:
        """Shows data, model and length of the training."""
        for line in _describe_training(runner):
            self._screen.line(line)
        self._clock = _Clock()
        self._start(lambda: _training_status(runner, self._clock))

    def before_test(self, runner: Runner) -> None:
        """Shows data and model of the test."""
        dataset = runner.test_dataloader.dataset
        self._screen.line(f'Data:   {len(dataset)} images to test')
        self._screen.line(f'Model:  {_describe_model(runner)}')
        self._clock = _Clock()

    def after_train_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Notes the time of a step."""
        steps = self._clock.steps
        self._clock.step()
        if steps == 2:
            left = runner.max_iters - runner.iter - 1
            words = _duration(self._clock.seconds * left)
            evaluated = ', validation on top' if runner.val_loop else ''
            self._screen.line(
                f'Time:   about {words} ({self._clock.seconds:.2g} s a step)'
                f'{evaluated}'
            )
        self._refresh()

    def after_train_epoch(self, runner: Runner) -> None:
        """Shows the loss of an epoch."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._screen.line(
                f'epoch {runner.epoch + 1}/{runner.max_epochs}: '
                f'{_loss(runner, now=True)}{_duration(self._clock.lap())}'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Shows the progress of a validation in place of the training's."""
        self._evaluate(runner.val_dataloader, 'validation')

    def before_test_epoch(self, runner: Runner) -> None:
        """Shows the progress of a test."""
        self._evaluate(runner.test_dataloader, 'test')

    def after_val_iter(self, runner: Runner, *args: Any, **kw: Any) -> None:
        """Notes a batch."""
        self._clock.batch()
        self._refresh()

    after_test_iter = after_val_iter

    def after_val_epoch(
        self, runner: Runner, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Shows the metrics, and goes on with the training's progress."""
        self._screen.line(f'    {_describe_metrics(metrics or {})}')
        self._clock.resume()
        self._start(lambda: _training_status(runner, self._clock))

    def after_train(self, runner: Runner) -> None:
        """Ends the progress, and names the log."""
        self.end()
        self._screen.line(f'Log:    {runner.logger.log_file}')

    after_test = after_train

    def end(self) -> None:
        """Shows no further progress."""
        if self._ended is not None:
            self._ended.set()
        self._ended = self._describe = None
        self._screen.close_status()

    def _evaluate(self, loader: Any, what: str) -> None:
        self._clock.pause()
        total, clock = len(loader), self._clock

        def describe() -> str:
            left = clock.batch_seconds * (total - clock.batches)
            told = f', {_duration(left)} left' if clock.batches else ''
            return f'{what}: {clock.batches} of {total} batches{told}'

        self._start(describe)

    def _start(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        if self._ended is None:
            self._ended = threading.Event()
            beat = partial(_beat, self._refresh, self._ended)
            threading.Thread(target=beat, daemon=True).start()

    def _refresh(self) -> None:
        describe = self._describe  # Another thread may end the progress.
        if describe is not None:
            self._screen.status(describe)


def _beat(refresh: Callable[[], None], ended: threading.Event) -> None:
    """Refreshes the status each second, however long a step takes."""
    while not ended.wait(1):
        refresh()


class _Clock:
    """Measures steps of a training and batches of an evaluation."""

    def __init__(self) -> None:
        self.steps = self.batches = 0
        self.seconds = self.batch_seconds = 0.0
        self._begin = self._epoch = self._start = time.monotonic()

    def step(self) -> None:
        """Notes the end of a step; the slow first ones do not count."""
        now = time.monotonic()
        self.steps += 1
        rate = max(1 / self.steps, 0.05)
        if self.steps > 2:
            self.seconds += rate * (now - self._begin - self.seconds)
        else:
            self.seconds = now - self._begin
        self._begin = now

    def lap(self) -> float:
        """Returns the seconds since the last call."""
        now = time.monotonic()
        passed, self._epoch = now - self._epoch, now
        return passed

    def pause(self) -> None:
        """Begins an evaluation."""
        self.batches, self._start = 0, time.monotonic()

    def batch(self) -> None:
        """Notes the end of a batch."""
        self.batches += 1
        self.batch_seconds = (time.monotonic() - self._start) / self.batches

    def resume(self) -> None:
        """Ends an evaluation, whose time is no step's."""
        self._begin = self._epoch = time.monotonic()


def _training_status(runner: Runner, clock: _Clock) -> str:
    done, total = runner.iter, runner.max_iters
    place = f'step {done}/{total}'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        length = len(runner.train_dataloader)
        epoch = min(runner.epoch + 1, runner.max_epochs)
        place = (
            f'epoch {epoch}/{runner.max_epochs}, step '
            f'{done - (epoch - 1) * length}/{length}'
        )
    if done == total:
        return 'finishing'
    if clock.steps < 2:
        return f'{place}: the first steps are under way'
    bar = '#' * (20 * done // total)
    left = _duration(clock.seconds * (total - done))
    return f'{place} [{bar:.<20}] {_loss(runner)}{left} left'


def _loss(runner: Runner, now: bool = False) -> str:
    loss = runner.message_hub.log_scalars.get('train/loss')
    if loss is None:
        return ''
    # Another thread asks, too, which must not read from a GPU.
    late = isinstance(loss, LateHistory) and not now
    return f'loss {(loss.known if late else loss.data[0])[-50:].mean():.4g}, '


def _describe_training(runner: Runner) -> Iterator[str]:
    yield f'Data:   {_describe_data(runner, runner.train_dataloader.dataset)}'
    yield f'Model:  {_describe_model(runner)}'
    loader = runner.train_dataloader
    length = len(loader)
    streams = len(getattr(loader.sampler, 'streams', ()) or ())
    unit = 'pair of images' if streams == 2 else 'image'
    batch = _many(getattr(loader, 'batch_size', None), unit)
    several = runner.world_size > 1
    shared = f' on each of {runner.world_size}' if several else ''
    steps = f'{_many(runner.max_iters, "step")} of {batch}{shared}'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        epochs = _many(runner.max_epochs, 'epoch')
        steps = f'{epochs} of {_many(length, "step")}: {steps}'
    groups = getattr(runner.optim_wrapper, 'param_groups', None) or [{}]
    rates = next(iter(runner.optim_wrapper.get_lr().values()))
    base = max(g.get('initial_lr', g.get('lr', 0)) for g in groups) or rates[0]
    yield f'Run:    {steps}, learning rate {base:g}, seed {runner.seed}'
    if runner.iter:
        yield f'        goes on after step {runner.iter}'
    yield f'Files:  {runner.work_dir}'


def _many(count: int | None, unit: str) -> str:
    first, *rest = unit.split(' ', 1)
    return ' '.join([f'{count} {first}{"s" * (count != 1)}', *rest])


def _describe_data(runner: Runner, dataset: Any) -> str:
    words = f'{len(dataset)} images to train'
    if runner.val_loop is not None:
        words += f', {len(runner.val_dataloader.dataset)} to validate'
    metainfo = getattr(dataset, 'metainfo', None) or {}
    if COUNTS_KEY in metainfo:
        statistics = ClassStatistics.from_metainfo(training_metainfo(dataset))
        groups = statistics.groups(**group_bounds(runner.cfg))
        counts = ', '.join(f'{len(v)} {k}' for k, v in groups.items())
        most, least = max(statistics.counts), min(statistics.counts)
        words += (
            f'; {len(statistics.counts)} classes: {counts} '
            f'(of {most} to {least} images)'
        )
    elif metainfo.get('classes'):
        words += f'; {len(metainfo["classes"])} classes'
    return words


def _describe_model(runner: Runner) -> str:
    model = unwrap_model(runner.model)
    words = type(model).__name__
    backbone = getattr(model, 'backbone', None)
    if backbone is not None:
        words += f' with {type(backbone).__name__}'
    count = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters(), torch.zeros(())).device
    cuda, processes = device.type == 'cuda', runner.world_size
    name = torch.cuda.get_device_name(device) if cuda else 'CPU'
    several = f', {processes} processes' if processes > 1 else ''
    return f'{words}, {count / 1e6:.1f} M parameters, on {name}{several}'


def _describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Shows mAP and its groups, of another evaluator what there is."""
    numbers = {
        key.rpartition('/')[2]: value
        for key, value in metrics.items()
        if isinstance(value, (int, float)) and key.count('/') < 2
    }
    own = [k for k in numbers if k == 'mAP' or k.startswith('mAP_')]
    shown = own or [k for k in numbers if 'time' not in k][:6]
    return ', '.join(
        f'{k.replace("mAP_", "")} {numbers[k]:.2f}' for k in shown
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60} s'
    return f'{whole // 3600} h {whole % 3600 // 60} min'
