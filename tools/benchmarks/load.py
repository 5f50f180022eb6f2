"""Watches what a long training takes and leaves: memory, files, processes.

Trains a small two-branch network on JPEG files, as ``tools/train.py`` does,
in a process group of its own, and reads ``/proc`` meanwhile: memory and file
descriptors of the main process and of its workers, the shared memory of the
machine. After a warm-up of a quarter of the steps, flat means that the last
quarter is where the second one was. Then what is left of processes, shared
memory and temporary files is listed; and all of it once more with Ctrl-C
(SIGINT to the group) at half-time. Linux only, and on a machine with nothing
else in /dev/shm.

Example:
    python tools/benchmarks/load.py --steps 2000 --out load.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument(
        '--epoch',
        type=int,
        default=50,
        help='steps up to a validation and a checkpoint',
    )
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--pairs', type=int, default=4, help='per step')
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args(argv)
    if (
        args.epoch < 1
        or args.steps < 4 * args.epoch
        or (args.steps % args.epoch)
    ):
        parser.error(
            f'--steps must be a multiple of --epoch {args.epoch}, at least '
            'four times as many'
        )
    return args


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np
from PIL import Image

from ltml_mm.files import write_json

REPO = Path(__file__).resolve().parents[2]
SHARED = Path('/dev/shm')
PAGE = os.sysconf('SC_PAGE_SIZE') / 2**20  # MiB
PATIENCE = 30  # seconds for what ends to be gone
SIDE = 64  # pixels
MEASURES = (
    'main_rss_mib',
    'worker_rss_mib',
    'main_descriptors',
    'worker_descriptors',
    'shared_mib',
)

CONFIG = """
_base_ = '{repo}/configs/ltml_custom.py'
data_root = '{folder}'
model = dict(
    backbone=dict(
        depth=18, stem_channels=8, base_channels=8, init_cfg=None))
train = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomRatioCrop', min_ratio=0.8),
    dict(type='Resize', scale=({side}, {side}), keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]
test = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=({side}, {side}), keep_ratio=False),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size={pairs}, num_workers={workers},
    sampler=dict(epoch_length={epoch}),
    dataset=dict(dataset=dict(pipeline=train)))
val_dataloader = dict(
    batch_size=32, num_workers={workers}, dataset=dict(pipeline=test))
test_dataloader = val_dataloader
param_scheduler = []
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(logger=dict(interval={interval}))
log_level = 'WARNING'
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures both runs."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_run(folder, args)
        result = {
            'steps': args.steps,
            'workers': args.workers,
            'whole_run': watch(config, folder / 'whole'),
            'ctrl_c': watch(config, folder / 'stopped', args.steps // 2),
        }
    report(result, args.out)


def write_run(folder: Path, args: argparse.Namespace) -> Path:
    """Writes pictures, annotations and the config; returns the config."""
    rng = np.random.default_rng(0)
    classes = ['sky', 'tree', 'cat', 'owl']
    for split, size in (('train', 200), ('test', 64)):
        labels = rng.random((size, len(classes))) < [0.8, 0.4, 0.2, 0.1]
        labels[: len(classes)] = np.eye(len(classes))
        entries = []
        for index, row in enumerate(labels):
            name = f'{split}_{index}.jpg'
            picture = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(picture).save(folder / name)
            positives = np.flatnonzero(row).tolist()
            entries.append({'img_path': name, 'gt_label': positives})
        content = {'metainfo': {'classes': classes}, 'data_list': entries}
        write_json(folder / f'{split}.json', content)
    config = folder / 'load.py'
    text = CONFIG.format(
        repo=REPO,
        folder=folder,
        side=SIDE,
        pairs=args.pairs,
        workers=args.workers,
        epoch=args.epoch * args.pairs,
        epochs=args.steps // args.epoch,
        interval=min(args.epoch, 10),
    )
    config.write_text(text)
    return config


def watch(config: Path, work_dir: Path, stop_at: int | None = None) -> dict:
    """Runs a training and reads /proc until it is over.

    Args:
        config: What to train.
        work_dir: Where to.
        stop_at: The step at which to send SIGINT, None for never.

    Returns:
        dict: What it took and left.
    """
    temporary = work_dir.with_suffix('.tmp')
    temporary.mkdir()
    shared_before = {path.name for path in SHARED.iterdir()}
    train = str(REPO / 'tools/train.py')
    process = subprocess.Popen(
        [sys.executable, train, str(config), '--work-dir', str(work_dir)],
        env={**os.environ, 'TMPDIR': str(temporary)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C and pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    samples = []
    interrupted = None
    while process.poll() is None:
        step = last_step(work_dir)
        if step:
            samples.append({'step': step, **look(process.pid)})
        if stop_at and step >= stop_at and interrupted is None:
            interrupted = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    result: dict[str, Any] = {'exit_status': process.returncode}
    if interrupted is not None:
        result['seconds_to_end'] = time.monotonic() - interrupted
    result.update(
        last_step=last_step(work_dir),
        processes_left=processes_left(process.pid),
        shared_memory_left=sorted(
            path.name
            for path in SHARED.iterdir()
            if path.name not in shared_before
        ),
        temporary_files_left=sorted(p.name for p in temporary.iterdir()),
    )
    if stop_at is None:
        result['use'] = {name: quarters(samples, name) for name in MEASURES}
        result['use']['gpu_mib'] = quarters(logged(work_dir), 'memory')
    return result


def look(main_pid: int) -> dict[str, float]:
    """Reads what the processes of a group use now."""
    uses = {pid: use(pid) for pid in group(main_pid)}
    main_use = uses.pop(main_pid, None)
    workers = [found for found in uses.values() if found]
    # Not the files' sizes: torch unlinks them as soon as they are mapped.
    volume = os.statvfs(SHARED)
    shared = (volume.f_blocks - volume.f_bfree) * volume.f_frsize / 2**20
    found: dict[str, float] = {'shared_mib': shared}
    for index, name in enumerate(('rss_mib', 'descriptors')):
        if main_use:
            found[f'main_{name}'] = main_use[index]
        if workers:
            # The largest: one that grows shall not hide among the others.
            found[f'worker_{name}'] = max(w[index] for w in workers)
    return found


def use(pid: int) -> tuple[float, int] | None:
    """Returns resident memory in MiB and the number of descriptors."""
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
        return pages * PAGE, len(os.listdir(f'/proc/{pid}/fd'))
    except (OSError, IndexError):
        return None  # It has just ended.


def group(leader: int) -> list[int]:
    """Returns the processes of a session that have not ended."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = path.read_text().rsplit(')', 1)[1].split()
        except OSError:
            continue
        if fields[0] != 'Z' and int(fields[3]) == leader:
            found.append(int(path.parent.name))
    return found


def processes_left(leader: int) -> list[int]:
    """Waits for a session to be empty; returns who stays, and ends them."""
    end = time.monotonic() + PATIENCE
    while (left := group(leader)) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def logged(work_dir: Path) -> list[dict]:
    """Reads the training's scalars so far."""
    lines: list[dict] = []
    for path in work_dir.glob('*/vis_data/scalars.json'):
        for line in path.read_text().splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue  # The last line, half written.
            if 'lr' in values:
                lines.append(values)
    return lines


def last_step(work_dir: Path) -> int:
    """Returns the last step that was logged, 0 for none."""
    return max((values['step'] for values in logged(work_dir)), default=0)


def quarters(samples: list[dict], name: str) -> dict[str, float] | None:
    """Compares the last quarter of a run with the second one."""
    values = [(s['step'], s[name]) for s in samples if name in s]
    if not values:
        return None
    end = max(step for step, _ in values)
    second, last = (
        [v for step, v in values if low * end <= step <= high * end]
        for low, high in ((0.25, 0.5), (0.75, 1))
    )
    before, after = statistics.median(second), statistics.median(last)
    return {
        'second_quarter': before,
        'last_quarter': after,
        'growth': after - before,
        'peak': max(value for _, value in values),
    }


if __name__ == '__main__':
    main()
