"""Makes the runs of a comparison that are missing, several at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.logging import print_log

from ltml_mm.apis.cli import parse_cfg_options
from ltml_mm.experiments.results import RESULT, result_path
from ltml_mm.experiments.rows import Row
from ltml_mm.experiments.run_config import (
    Plan,
    planned_digest,
    write_plan,
)
from ltml_mm.experiments.run_lock import BUSY, is_held

#: Seconds between two looks at the running processes, and for a process to
#: end when it is told to.
POLL, GRACE = 0.5, 30


def plan_runs(
    rows: Sequence[Row], seeds: Sequence[int], base: Plan
) -> list[Plan]:
    """Lists the runs, seed by seed, so that every row has some early.

    Args:
        rows: The rows.
        seeds: The seeds.
        base: What all runs have in common.

    Returns:
        list[Plan]: The runs.

    Raises:
        FileNotFoundError: A config or a file of the data does not exist.
        ValueError: A row's config or overrides are broken, its streams
            cannot share the images, or they set what the comparison sets.
    """
    plans = []
    for row in rows:
        plan = replace(
            base,
            row=row.name,
            config=str(row.config),
            overrides=[*row.overrides],
        )
        options = parse_cfg_options([*plan.options, *plan.overrides])
        taken = {'randomness.seed', 'work_dir', 'resume'} & options.keys()
        if taken:
            raise ValueError(
                f'--cfg-options {taken.pop()}: the comparison sets it; see '
                '--seeds and --out'
            )
        plans.append(replace(plan, config_digest=planned_digest(plan)))
    return [replace(plan, seed=seed) for seed in seeds for plan in plans]


def make_runs(out: Path, plans: Sequence[Plan], jobs: int) -> list[Plan]:
    """Makes the missing runs, in processes of their own.

    A run is finished when it has left its ``result.json``; any other is
    started, and resumes from its last checkpoint. One that another process
    is at, of a comparison that was killed, say, waits for its end while the
    others go on. Ctrl-C, SIGTERM and a lost terminal stop the running ones
    in their order; under nohup a lost terminal does not.

    Args:
        out: The comparison's folder; a run has ``ROW/seed_SEED`` in it, with
            all it printed in ``log.txt``.
        plans: The runs.
        jobs: How many at a time; with GPUs they take them in turns.

    Returns:
        list[Plan]: The runs that failed.

    Raises:
        ValueError: A finished or begun run was configured otherwise.
        KeyboardInterrupt: The comparison was stopped.
    """
    for plan in plans:
        _check_begun(run_folder(out, plan), plan)
    waiting = [p for p in plans if not _result(out, p).exists()]
    running: dict[subprocess.Popen, tuple[Plan, int]] = {}
    failed: list[Plan] = []
    told: set[Path] = set()
    with _stopping(running):
        while waiting or running:
            slots = {slot for _, slot in running.values()}
            free = sorted(set(range(jobs)) - slots)
            found = _not_held(out, [*waiting], told)
            for slot, plan in zip(free, found, strict=False):
                waiting.remove(plan)
                running[_start(out, plan, slot)] = plan, slot
            time.sleep(POLL)
            for process in [p for p in running if p.poll() is not None]:
                plan, _ = running.pop(process)
                folder = run_folder(out, plan)
                if process.returncode == BUSY:
                    waiting.append(plan)
                elif process.returncode or not _result(out, plan).exists():
                    failed.append(plan)
                    _say(_failure(folder, process.returncode))
                else:
                    _say(f'finished, {len(waiting)} to start: {folder}')
    return failed


def _not_held(
    out: Path, plans: Sequence[Plan], told: set[Path]
) -> Iterator[Plan]:
    """Yields the runs that no process is at, and tells once of the others.

    One may come to it afterwards; the lock of the run itself is the guard.
    """
    for plan in plans:
        folder = run_folder(out, plan)
        if not is_held(folder):
            yield plan
        elif folder not in told:
            told.add(folder)
            _say(f'another process is at this run, which waits: {folder}')


@contextmanager
def _stopping(running: Mapping[subprocess.Popen, object]) -> Iterator[None]:
    """Stops what runs, whatever ends this process in an orderly way.

    What is ignored already, as nohup ignores a lost terminal, stays so.
    """
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if previous[number] is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        # A second signal must not leave anything running.
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        _stop([*running])
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_folder(out: Path, plan: Plan) -> Path:
    """The folder of a run."""
    return _result(out, plan).parent


def _result(out: Path, plan: Plan) -> Path:
    return result_path(out, plan.row, plan.seed)


def _check_begun(folder: Path, plan: Plan) -> None:
    for name in (RESULT, 'run.json'):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_text()).get('config_digest')
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f'{path} is broken ({error}): remove {folder}'
            ) from error
        if found != plan.config_digest:
            raise ValueError(
                f'{folder} was configured otherwise ({path}): remove it or '
                'choose another --out'
            )
        return


def _start(out: Path, plan: Plan, slot: int) -> subprocess.Popen:
    folder = run_folder(out, plan)
    write_plan(folder, plan)
    environment = dict(os.environ)
    devices = _devices()
    if devices:
        environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
    # With more threads, sums would depend on how many there are.
    environment.setdefault('OMP_NUM_THREADS', '1')
    with (folder / 'log.txt').open('ab') as log:
        return subprocess.Popen(
            [sys.executable, '-m', f'{__package__}.single_run', str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C reaches this process alone, which then stops the others.
            start_new_session=True,
        )


def _devices() -> list[str]:
    """Names the GPUs that this process may use."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = given.split(',') if given else []
    return names or [str(i) for i in range(torch.cuda.device_count())]


def _failure(folder: Path, status: int) -> str:
    log = folder / 'log.txt'
    last = log.read_text(errors='replace').strip().splitlines()[-5:]
    return '\n  '.join([f'failed with status {status}: {log}', *last])


def _stop(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print_log(text, logger='current')
