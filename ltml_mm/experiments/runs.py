"""The runs of a comparison; makes the missing ones, several at a time."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from pprint import pformat

import torch
from mmengine.config import Config
from tqdm import tqdm

from ltml_cli.result_parsers import PLAIN
from ltml_mm._stack import find_stack
from ltml_mm.apis.cli import prepare_config
from ltml_mm.apis.config import config_parts
from ltml_mm.engine.hooks.resume_state import SHAPING_HOOKS
from ltml_mm.files import file_sha256, write_json, write_text
from ltml_mm.version import __version__

#: What a run's folder holds: the run, its config, and at the end the result.
RUN, CONFIG, RESULT = 'run.json', 'config.py', 'result.json'
#: And meanwhile: how far it is.
PROGRESS = 'progress.json'
#: Seconds between two lines about the progress; a terminal has a bar.
LINE_SECONDS = 20
#: Entries that name a file, which counts by its content.
FILES = ('ann_file', 'checkpoint', 'load_from')
#: Entries that change where a run lies and how it is loaded, not its result.
NOT_HASHED = (
    'allow_outside', 'data_root', 'experiment_name', 'launcher', 'log_level',
    'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor',
    'randomness', 'vis_backends', 'visualizer', 'work_dir',
)  # fmt: skip
#: Those that stop a comparison; Windows has no SIGHUP.
SIGNALS = {
    signal.SIGTERM,
    signal.SIGINT,
    getattr(signal, 'SIGHUP', signal.SIGINT),
}


@dataclass(frozen=True)
class Run:
    """A row trained with one seed.

    Attributes:
        folder: See :func:`run_folder`.
        row: Name of the row.
        seed: That of the weights, the samplers and the augmentation.
        set: Name of the data set.
        keep_checkpoints: Whether the last one stays.
        config_hash: See :func:`config_hash`.
        variants: The tests that are asked for, some of
            :data:`~ltml_mm.experiments.rows.VARIANTS`.
    """

    folder: Path
    row: str
    seed: int
    set: str
    keep_checkpoints: bool
    config_hash: str
    variants: Sequence[str] = (PLAIN,)

    def missing(self) -> list[str]:
        """Lists the tests of it that have no result yet."""
        return [v for v in self.variants if v not in self._tested()]

    def _tested(self) -> Collection[str]:
        path = self.folder / RESULT
        try:
            result = json.loads(path.read_text(encoding='utf-8'))
            return result.get('tested', result['metrics'])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, AttributeError):
            return self.variants  # Broken: who reads the results tells.

    def progress(self) -> tuple[float, str]:
        """Reads the share of the run that is done, and what it does."""
        try:
            found = json.loads((self.folder / PROGRESS).read_text())
            return float(found['done']), str(found['doing'])
        except (OSError, ValueError, KeyError):
            return 0.0, 'starts'


def run_folder(out: Path, row: str, seed: int) -> Path:
    """Returns the folder of a run."""
    return out / row / f'seed_{seed}'


def plan_runs(
    args: argparse.Namespace,
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    variants: Mapping[str, Sequence[str]],
) -> list[Run]:
    """Lists the runs, seed by seed, so that every row has some early.

    ``variants`` are the tests that are asked for by row; else the plain one.
    """
    hashes = {row: config_hash(cfg) for row, cfg in configs.items()}
    return [
        Run(
            folder=run_folder(args.out, row, seed),
            row=row,
            seed=seed,
            set=args.data,
            keep_checkpoints=args.keep_checkpoints,
            config_hash=found,
            variants=tuple(variants.get(row, (PLAIN,))),
        )
        for seed in seeds
        for row, found in hashes.items()
    ]


def config_hash(cfg: Config) -> str:
    """Hashes the config of a run, its annotations and its initial weights.

    Files count by their content. The root folder, workers, the seed and
    default hooks that neither choose a checkpoint nor change weights do not
    count.

    Returns:
        str: The first 16 hexadecimal digits of the SHA-256.
    """
    content = cfg.to_dict()
    content['default_hooks'] = [
        hook
        for hook in filter(None, (content.get('default_hooks') or {}).values())
        if hook.get('save_best')
        or 'monitor' in hook
        or any(part in str(hook) for part in SHAPING_HOOKS)
    ]
    for part in config_parts(content):
        if isinstance(part.get('ann_file'), str):
            folder = part.get('data_root') or ''
            part['ann_file'] = str(Path(folder, part['ann_file']))
        for key in FILES:
            path = part.get(key)
            if isinstance(path, str) and Path(path).is_file():
                part[key] = file_sha256(path)
        for key in NOT_HASHED:
            part.pop(key, None)
    content['versions'] = [__version__, find_stack()]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_config(run: Run, cfg: Config) -> None:
    """Writes ``config.py`` from that of the row; stock tools train it too."""
    cfg = deepcopy(cfg)
    work_dir = str(run.folder / 'work')
    args = dict(work_dir=work_dir, launcher='none', local_rank=0)
    prepare_config(cfg, argparse.Namespace(**args))
    cfg.merge_from_dict({'randomness.seed': run.seed})
    cfg.experiment_name = f'{run.row} {run.seed}'
    # Formatting it by ``pretty_text`` takes a second.
    entries = cfg.to_dict().items()
    text = (f'{key} = {pformat(v, sort_dicts=False)}' for key, v in entries)
    write_text(run.folder / CONFIG, '\n'.join([*text, '']))


def write_run(run: Run, cfg: Config) -> None:
    """Writes ``config.py`` and ``run.json``, all that a run needs."""
    write_config(run, cfg)
    facts = {k: v for k, v in asdict(run).items() if k != 'folder'}
    write_json(run.folder / RUN, facts)


def make_runs(
    runs: Sequence[Run], configs: Mapping[str, Config], jobs: int
) -> list[Run]:
    """Makes the missing runs, each in a process of its own.

    A run is finished when its ``result.json`` holds every test that was asked
    for; any other is started, and resumes from its last checkpoint. Where
    another process makes it, one of a comparison that was killed for
    instance, it waits for the end of that process. Ctrl-C, SIGTERM and a
    lost terminal stop the running processes, which save a checkpoint; under
    nohup a lost terminal does not. What a run prints goes to ``log.txt``.

    Args:
        runs: The runs.
        configs: The config of every row, by its name.
        jobs: How many runs at a time; with GPUs they take them in turns.

    Returns:
        list[Run]: The runs that failed.

    Raises:
        ValueError: A finished or begun run had another config.
        KeyboardInterrupt: The comparison was stopped.
    """
    for run in runs:
        path = run.folder / RUN
        if path.exists() and run.config_hash not in path.read_text():
            raise ValueError(
                f'{run.folder} was configured otherwise ({path}): remove it '
                'or choose another --out'
            )
    waiting = [run for run in runs if run.missing()]
    screen = _Screen(len(runs), len(waiting), jobs)
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    failed = []
    with _signals_noted() as noted:
        try:
            while (waiting or running) and not noted:
                for slot in range(jobs):
                    if slot in running and running[slot][1].poll() is not None:
                        run, process = running.pop(slot)
                        screen.ended += 1
                        if not _succeeded(run, process.returncode, screen):
                            failed.append(run)
                    if slot not in running and waiting:
                        run = waiting.pop(0)
                        write_run(run, configs[run.row])
                        screen.before[run.folder] = run.progress()[0]
                        (run.folder / PROGRESS).unlink(missing_ok=True)
                        running[slot] = run, _start(run.folder, slot)
                screen.show([run for run, _ in running.values()])
                time.sleep(0.1)
        finally:
            screen.close()
            _stop([process for _, process in running.values()])
    if noted:
        raise KeyboardInterrupt
    return failed


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Notes signals in place of ending where one comes.

    Those that are ignored already, as nohup ignores a lost terminal, stay
    ignored.
    """
    noted: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: noted.append(number))
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Screen:
    """Shows how far the runs are: a bar on a terminal, lines elsewhere."""

    def __init__(self, asked: int, waiting: int, jobs: int) -> None:
        self.total, self.ended = waiting, 0
        self.start = self.shown = time.monotonic()
        # By run: what had been done before it was started here, at most.
        self.before: dict[Path, float] = {}
        self.bar: tqdm | None = None
        self.say(
            f'{asked} runs: {asked - waiting} finished, {waiting} to make, '
            f'{jobs} at a time'
        )
        if waiting and sys.stderr.isatty():
            self.bar = tqdm(
                total=waiting,
                bar_format='{percentage:3.0f}%|{bar:10}| {desc}',
                ncols=shutil.get_terminal_size().columns - 1,
            )

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self.bar is not None:
            tqdm.write(text)
        else:
            print(text, flush=True)

    def show(self, running: Sequence[Run]) -> None:
        """Shows the progress where it is time to."""
        now = time.monotonic()
        if now - self.shown < (1 if self.bar is not None else LINE_SECONDS):
            return
        self.shown = now
        states = [run.progress() for run in running]
        done = self.ended + sum(share for share, _ in states)
        for run, (share, _) in zip(running, states, strict=True):
            if share:
                earlier = self.before.get(run.folder, share)
                self.before[run.folder] = min(earlier, share)
        doing = '; '.join(
            f'{run.row} seed {run.seed}: {text} ({share:.0%})'
            for run, (share, text) in zip(running, states, strict=True)
        )
        seconds, left = now - self.start, 'time left unknown'
        made = done - sum(self.before.values())
        if made > 0.01:
            rest = round((self.total - done) * seconds / made)
            left = f'{timedelta(seconds=rest)} left'
        words = f'{self.ended} of {self.total} runs made, {left}; {doing}'
        if self.bar is None:
            self.say(f'[{timedelta(seconds=round(seconds))}] {words}')
        else:
            self.bar.n = min(done, self.total)
            self.bar.set_description_str(words)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self.bar is not None:
            self.bar.close()


def _succeeded(run: Run, status: int, screen: _Screen) -> bool:
    """Tells how a run ended."""
    left = screen.total - screen.ended
    if status == 0 and (run.folder / RESULT).exists():
        screen.say(f'finished, {left} left: {run.folder}')
        return True
    log = run.folder / 'log.txt'
    last = log.read_text(errors='replace').splitlines()[-5:]
    lines = [f'failed with status {status}, {left} left: {log}', *last]
    screen.say('\n  '.join(lines))
    return False


def _start(folder: Path, slot: int) -> subprocess.Popen:
    """Starts a run, on one of the GPUs."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    numbers = map(str, range(torch.cuda.device_count()))
    devices = given.split(',') if given else [*numbers]
    # With more threads, sums would depend on how many there are.
    environment = {'OMP_NUM_THREADS': '1', **os.environ}
    if devices:
        environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
    with (folder / 'log.txt').open('ab') as log:
        return subprocess.Popen(
            [sys.executable, '-m', f'{__package__}.single_run', str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C reaches this process alone, which then stops the others.
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Tells processes to end, and kills those that still run 30 s later."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
