"""Compares whole trainings on JPEG files, loading included.

A two-branch training as ``ltml_custom`` does it, through ``tools/train.py``,
against a stock single-branch one with MMPretrain's defaults and its own
``tools/train.py``: the same backbone, as many images of VOC's size in a step
and in an epoch, the same number of workers. In turns, each a whole process;
the time is that of the epochs after the first, on the clock and of the
processors, workers included, which other programs change less. On a GPU both
train in mixed precision, and ``nvidia-smi`` tells how busy it was from a
second after the second epoch on, when all images have been read once.

Example:
    python tools/benchmarks/end_to_end.py
    python tools/benchmarks/end_to_end.py --pictures 1142 --images 7744 \
        --workers 8 --rounds 1  # an epoch of VOC-LT
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import Any

from timing import report

#: What the machine decides: the default on a CPU and on a GPU.
SIZES = {
    'pictures': (64, 1142, 'files'),
    'images': (64, 7744, 'of an epoch, a multiple of --batch'),
    'batch': (16, 64, 'images a step'),
    'workers': (2, 8, 'processes that load'),
    'epochs': (3, 8, 'of each training'),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, (cpu, gpu, words) in SIZES.items():
        default = f'default: {gpu} on a GPU, else {cpu}'
        parser.add_argument(f'--{name}', type=int, help=f'{words} ({default})')
    parser.add_argument('--side', type=int, default=224, help='in pixels')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--depth', type=int, default=50)
    parser.add_argument('--channels', type=int, default=64, help='at the stem')
    parser.add_argument(
        '--augment-on', choices=('worker', 'device'), default='worker'
    )
    parser.add_argument(
        '--layout',
        choices=('auto', 'channels_last', 'contiguous'),
        default='auto',
        help='of the two-branch network',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='the two-branch network, into CUDA graphs on a GPU',
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import torch

from pictures import write_pictures
from stock import TOOLS, stock_config, without_multimodal

REPO = Path(__file__).resolve().parents[2]
#: Writes when each epoch ended, and the processor time until then.
PROBE = """
import json
import multiprocessing
import os
import time

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class EpochTimes(Hook):
    priority = 'LOWEST'

    def before_run(self, runner):
        self.times = []

    def after_train_epoch(self, runner):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.process_time()
        for worker in multiprocessing.active_children():
            with open(f'/proc/{worker.pid}/stat') as file:
                ticks = file.read().rsplit(')', 1)[1].split()[11:13]
            spent += sum(map(int, ticks)) / os.sysconf('SC_CLK_TCK')
        self.times.append((time.time(), spent))
        with open(os.environ['EPOCH_TIMES'], 'w') as file:
            json.dump(self.times, file)
"""
COMMON = """
custom_hooks = [dict(type='EpochTimes')]
val_cfg = val_dataloader = val_evaluator = None
log_level = 'WARNING'
train_cfg = dict(by_epoch=True, max_epochs={epochs})
param_scheduler = []
"""
OWN = """
_base_ = '{repo}/configs/ltml_custom.py'
custom_imports = dict(imports=['ltml_mm', 'epoch_times'])
data_root = '{folder}'
augment_on = '{augment_on}'
model = dict(backbone=dict({backbone}init_cfg=None))
train_dataloader = dict(
    batch_size={pairs}, num_workers={workers},
    sampler=dict(epoch_length={epoch_pairs}))
default_hooks = dict(device=dict(memory_format='{layout}'),
                     checkpoint={checkpoint})
"""
#: What the stock training has beside its classifier and data.
SCHEDULE = """
train_dataloader.update(
    batch_size={images}, num_workers={workers}, persistent_workers=True,
    pin_memory=True)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
default_hooks = dict(checkpoint={checkpoint})
"""
CROP = """dict(type='RandomResizedCrop', scale={side}),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),"""


def settle_sizes(args: argparse.Namespace) -> None:
    """Fills in the sizes that the machine decides, and checks all."""
    for name, (cpu, gpu, _) in SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, gpu if torch.cuda.is_available() else cpu)
    if args.batch % 2 or args.images % args.batch or args.epochs < 2:
        sys.exit(
            'error: --batch must be even, --images a multiple of it, and '
            '--epochs at least 2'
        )


def write_configs(
    folder: Path, args: argparse.Namespace
) -> dict[str, list[str]]:
    """Writes pictures and both configs; returns the commands."""
    write_pictures(folder, args.pictures)
    content = json.loads((folder / 'train.json').read_text())
    # Both train on as many images an epoch, each some times over.
    data = content['data_list']
    content['data_list'] = [data[i % len(data)] for i in range(args.images)]
    (folder / 'repeated.json').write_text(json.dumps(content))
    (folder / 'epoch_times.py').write_text(without_multimodal() + PROBE)
    backbone = (
        f'depth={args.depth}, stem_channels={args.channels}, '
        f'base_channels={args.channels}, '
    )
    values = dict(
        repo=REPO,
        folder=folder,
        backbone=backbone,
        images=args.batch,
        pairs=args.batch // 2,
        epoch_pairs=args.images // 2,
        workers=args.workers,
        side=args.side,
        epochs=args.epochs,
        layout=args.layout,
        augment_on=args.augment_on,
        # None, whose time would count, and which a new run would refuse.
        checkpoint='dict(interval=-1, save_last=False)',
    )
    commands = {}
    stock = stock_config(
        folder,
        'epoch_times',
        args.depth,
        args.channels,
        20,
        'repeated.json',
        CROP.format(side=args.side),
    )
    for name, text, tool in (
        ('stock', stock + SCHEDULE.format(**values), TOOLS['stock']),
        ('two_branch', OWN.format(**values), TOOLS['own']),
    ):
        config = folder / f'{name}.py'
        config.write_text(text + COMMON.format(**values))
        commands[name] = [sys.executable, str(tool), str(config)]
        commands[name] += ['--work-dir', str(folder / name)]
        if torch.cuda.is_available():
            commands[name].append('--amp')
    scale = f'({args.side},{args.side})'
    key = 'train_dataloader.dataset.dataset.pipeline.2.scale'
    commands['two_branch'] += ['--cfg-options', f'{key}={scale}']
    if args.compile:
        commands['two_branch'].append('compile.mode=reduce-overhead')
    return commands


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Trains once; returns the seconds of the epochs after the first."""
    times = folder / 'times.json'
    paths = [str(REPO), str(folder), os.environ.get('PYTHONPATH', '')]
    busy: list[tuple[float, float]] = []
    with subprocess.Popen(
        command,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(paths),
            'EPOCH_TIMES': str(times),
            'LTML_IMAGE_CACHE': str(folder / 'kept'),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watch = threading.Thread(target=sample_gpu, args=(process, busy))
        if torch.cuda.is_available() and which('nvidia-smi'):
            watch.start()
        _, errors = process.communicate()
        if watch.ident is not None:
            watch.join()
    if process.returncode:
        raise RuntimeError(f'{command} failed:\n{errors[-3000:]}')
    ends, spent = zip(*json.loads(times.read_text()), strict=True)
    # Each sample is of the second before it.
    begin = ends[1] + 1
    shares = [share for when, share in busy if begin <= when <= ends[-1]]
    if torch.cuda.is_available() and not shares:
        print('warning: nvidia-smi told no use of the GPU', file=sys.stderr)
    return {
        'seconds': (ends[-1] - ends[0]) / (len(ends) - 1),
        'processor_seconds': (spent[-1] - spent[0]) / (len(ends) - 1),
        'gpu_busy_percent': statistics.mean(shares) if shares else None,
    }


def sample_gpu(
    process: subprocess.Popen, busy: list[tuple[float, float]]
) -> None:
    """Asks how busy the first visible GPU is until a process ends."""
    gpu = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0] or '0'
    query = ['nvidia-smi', '--query-gpu=utilization.gpu', f'--id={gpu}']
    query.append('--format=csv,noheader,nounits')
    while process.poll() is None:
        found = subprocess.run(query, capture_output=True, text=True)
        # A part of a GPU has no such figure.
        if found.stdout.strip().isdecimal():
            busy.append((time.time(), float(found.stdout)))
        time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    settle_sizes(args)
    with tempfile.TemporaryDirectory() as name:
        commands = write_configs(Path(name), args)
        runs: dict[str, list[dict]] = {key: [] for key in commands}
        for _ in range(args.rounds):
            for key, command in commands.items():
                runs[key].append(run(command, Path(name)))
    seconds, processor = (
        {
            key: statistics.median(r[name] for r in found)
            for key, found in runs.items()
        }
        for name in ('seconds', 'processor_seconds')
    )
    report(
        {
            'settings': vars(args),
            'runs': runs,
            'median_seconds_an_epoch': seconds,
            'images_a_second': {
                key: args.images / s for key, s in seconds.items()
            },
            'ratio': seconds['two_branch'] / seconds['stock'],
            'processor_ratio': processor['two_branch'] / processor['stock'],
        },
        args.out,
    )


if __name__ == '__main__':
    main()
