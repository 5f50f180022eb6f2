"""Makes the runs of a comparison that are missing, several at a time."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.logging import print_log

from ltml_mm.apis.config import load_config
from ltml_mm.apis.launch import OverrideAction
from ltml_mm.comparison.rows import Row
from ltml_mm.comparison.single_run import BUSY, Plan, write_plan

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
        ValueError: Two rows have one name, or a row's config or overrides
            are broken.
    """
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f'--rows names a row twice: {", ".join(names)}')
    plans = []
    for row in rows:
        plan = replace(
            base,
            row=row.name,
            config=str(row.config),
            plain=None if row.plain is None else str(row.plain),
            overrides=[*row.overrides],
        )
        plans.append(replace(plan, config_digest=digest(plan)))
    return [replace(plan, seed=seed) for seed in seeds for plan in plans]


def digest(plan: Plan) -> str:
    """Stands for everything that is configured, but for seed and folders.

    Args:
        plan: The run.

    Returns:
        str: 16 hexadecimal digits.

    Raises:
        FileNotFoundError: The config or a file of the data does not exist.
        ValueError: The config or an override is broken.
    """
    options = parse_options([*plan.options, *plan.overrides])
    content = load_config(plan.config, options).to_dict()
    content['comparison'] = [
        plan.images_per_step,
        plan.epoch_images,
        plan.views if plan.cache else None,
    ]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_options(options: Sequence[str]) -> dict:
    """Reads overrides as the tools' ``--cfg-options`` does.

    Args:
        options: ``KEY=VALUE`` each.

    Returns:
        dict: Values by key.
    """
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--options', nargs='*', action=OverrideAction)
    try:
        found = parser.parse_args(['--options', *options]).options
    except argparse.ArgumentError as error:
        raise ValueError(f'--cfg-options: {error.message}') from error
    return found or {}


def make_runs(
    out: Path,
    plans: Sequence[Plan],
    jobs: int,
    on_finish: Callable[[], None] = lambda: None,
) -> list[Plan]:
    """Makes the missing runs, in processes of their own.

    A run is finished when it has left its ``result.json``; any other is
    started, and resumes from its last checkpoint. Ctrl-C and SIGTERM stop
    the running ones in their order and this process after them. A run that
    another process is at is left to it.

    Args:
        out: The comparison's folder; a run has ``ROW/seed_SEED`` in it, with
            all it printed in ``log.txt``.
        plans: The runs.
        jobs: How many at a time; with GPUs they take them in turns.
        on_finish: Called after each finished run.

    Returns:
        list[Plan]: The runs that failed.

    Raises:
        ValueError: A finished or begun run was configured otherwise.
    """
    for plan in plans:
        _check_begun(run_folder(out, plan), plan)
    waiting = [p for p in plans if not _result(out, p).exists()]
    done = len(plans) - len(waiting)
    running: dict[subprocess.Popen, tuple[Plan, int]] = {}
    failed: list[Plan] = []
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slots = {slot for _, slot in running.values()}
                slot = min(set(range(jobs)) - slots)
                plan = waiting.pop(0)
                running[_start(out, plan, slot, jobs)] = plan, slot
            time.sleep(POLL)
            for process in [p for p in running if p.poll() is not None]:
                plan, _ = running.pop(process)
                folder = run_folder(out, plan)
                if process.returncode == 0 and _result(out, plan).exists():
                    done += 1
                    _say(f'{done} of {len(plans)} runs: {folder}')
                    on_finish()
                else:
                    failed.append(plan)
                    _say(_failure(folder, process.returncode))
    finally:
        signal.signal(signal.SIGTERM, previous)
        _stop([*running])
    return failed


def run_folder(out: Path, plan: Plan) -> Path:
    """The folder of a run."""
    return out / plan.row / f'seed_{plan.seed}'


def _result(out: Path, plan: Plan) -> Path:
    return run_folder(out, plan) / 'result.json'


def _check_begun(folder: Path, plan: Plan) -> None:
    for name in ('result.json', 'run.json'):
        path = folder / name
        if path.exists():
            found = json.loads(path.read_text()).get('config_digest')
            if found != plan.config_digest:
                raise ValueError(
                    f'{folder} was configured otherwise ({path}): remove it '
                    'or choose another --out'
                )
            return


def _start(out: Path, plan: Plan, slot: int, jobs: int) -> subprocess.Popen:
    folder = run_folder(out, plan)
    write_plan(folder, plan)
    environment = dict(os.environ)
    if torch.cuda.device_count() > 1:
        number = slot % torch.cuda.device_count()
        environment['CUDA_VISIBLE_DEVICES'] = str(number)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment.setdefault('OMP_NUM_THREADS', str(threads))
    with (folder / 'log.txt').open('ab') as log:
        return subprocess.Popen(
            [sys.executable, '-m', f'{__package__}.single_run', str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C reaches this process alone, which then stops the others.
            start_new_session=True,
        )


def _failure(folder: Path, status: int) -> str:
    if status == BUSY:
        return f'left to another process: {folder}'
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
