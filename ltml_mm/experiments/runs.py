"""Makes the runs of a comparison that are missing, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Lock, local

import torch
from filelock import FileLock, Timeout
from mmengine.config import Config
from mmengine.logging import print_log

from ltml_mm.experiments.run_config import (
    RESULT,
    RUN,
    Run,
    read_run,
    write_run,
)

#: Seconds that a process has at least to end when it is told to.
GRACE = 30


def run_lock(folder: Path) -> FileLock:
    """Returns the file lock that a process holds while it makes a run.

    The system frees it when the process ends, however it ends.
    """
    return FileLock(folder / 'lock')


def is_held(folder: Path) -> bool:
    """Tells whether a process makes a run at the moment."""
    if not (folder / 'lock').exists():
        return False
    try:
        with run_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def make_runs(
    runs: Sequence[Run], configs: Mapping[str, Config], jobs: int
) -> list[Run]:
    """Makes the missing runs, each in a process of its own.

    A run is finished when it has left its ``result.json``; any other is
    started, and resumes from its last checkpoint. A run that another process
    makes, one of a comparison that was killed for instance, comes last and
    waits for the end of that process. Ctrl-C, SIGTERM and a lost terminal
    stop the running processes, which save a checkpoint; under nohup a lost
    terminal does not.

    Args:
        runs: The runs. What a run prints goes to ``log.txt`` in its folder.
        configs: The config of every row, by its name.
        jobs: How many runs at a time; with GPUs they take them in turns.

    Returns:
        list[Run]: The runs that failed.

    Raises:
        ValueError: A finished or begun run had another config.
        KeyboardInterrupt: The comparison was stopped.
    """
    for run in runs:
        _check_begun(run)
    missing = [run for run in runs if not (run.folder / RESULT).exists()]
    held = [run for run in missing if is_held(run.folder)]
    for run in held:
        text = f'another process makes this run, which waits: {run.folder}'
        print_log(text, 'current')
    missing.sort(key=held.__contains__)
    failed: list[Run] = []
    processes, thread, slots = _Processes(), local(), count()

    def take_slot() -> None:
        thread.slot = next(slots)

    def make(run: Run) -> int:
        return processes.call(run, configs[run.row], thread.slot)

    pool = ThreadPoolExecutor(jobs, initializer=take_slot)
    # The processes are stopped before the pool waits for its threads.
    with pool, _stopping(processes):
        made = {pool.submit(make, run): run for run in missing}
        for done, future in enumerate(as_completed(made), 1):
            run, status = made[future], future.result()
            text = f'finished {done} of {len(made)}: {run.folder}'
            if status or not (run.folder / RESULT).exists():
                failed.append(run)
                log = run.folder / 'log.txt'
                last = log.read_text(errors='replace').splitlines()[-5:]
                text = f'failed with status {status}: {log}'
                text = '\n  '.join([text, *last])
            print_log(text, 'current')
    return failed


class _Processes:
    """The running processes; once they are stopped no other starts."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def call(self, run: Run, cfg: Config, slot: int) -> int:
        """Makes a run and returns the exit status of its process."""
        with self._lock:
            if self._stopped:
                return -signal.SIGTERM
            write_run(run, cfg)
            process = _start(run.folder, slot)
            self._running.add(process)
        status = process.wait()
        self._running.discard(process)
        return status

    def stop(self) -> None:
        """Tells all processes to end, and kills those that do not."""
        with self._lock:
            self._stopped = True
        running = [*self._running]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, slot: int) -> subprocess.Popen:
    with (folder / 'log.txt').open('ab') as log:
        return subprocess.Popen(
            [sys.executable, '-m', f'{__package__}.single_run', str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(slot),
            # Ctrl-C reaches this process alone, which then stops the others.
            start_new_session=True,
        )


@contextmanager
def _stopping(processes: _Processes) -> Iterator[None]:
    """Stops the processes, whatever ends this one in an orderly way.

    Signals that are ignored already, as nohup ignores a lost terminal, stay
    ignored.
    """
    names = ('SIGTERM', 'SIGHUP', 'SIGINT')  # Windows has no SIGHUP
    signals = [
        getattr(signal, name) for name in names if hasattr(signal, name)
    ]
    previous = {number: signal.getsignal(number) for number in signals}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        # A second signal must not leave anything running.
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        processes.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _check_begun(run: Run) -> None:
    """Refuses the folder of a run that had another config."""
    path = run.folder / RUN
    if not path.exists():
        return
    try:
        found = read_run(run.folder).config_hash
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'{path} is broken ({error}): remove {run.folder}'
        ) from error
    if found != run.config_hash:
        raise ValueError(
            f'{run.folder} was configured otherwise ({path}): remove it or '
            'choose another --out'
        )


def _environment(slot: int) -> dict[str, str]:
    """Returns the environment of a process, with one of the GPUs."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    numbers = map(str, range(torch.cuda.device_count()))
    devices = given.split(',') if given else [*numbers]
    # With more threads, sums would depend on how many there are.
    environment = {'OMP_NUM_THREADS': '1', **os.environ}
    if devices:
        environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
    return environment
