"""Compares the time from the command to the end of the first step.

``tools/train.py configs/ltml_demo.py`` against MMPretrain's own
``tools/train.py`` with a stock classifier of the same backbone on the same
pictures' shape, each a whole process, in turns. Both train on the CPU or GPU
at hand, from weights at random, and stop after one step.

Example:
    python tools/benchmarks/startup.py --repeats 7
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from timing import medians, report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument(
        '--warm-up', type=int, default=1, help='rounds that do not count'
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import numpy as np
from PIL import Image

from stock import TOOLS, stock_config, without_multimodal

REPO = Path(__file__).resolve().parents[2]
#: Ends the process as soon as a step is done; no clean-up is measured.
PROBE = """
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class StopAtFirstStep(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, *args, **kwargs):
        os._exit(0)
"""
COMMON = """
custom_hooks = [dict(type='StopAtFirstStep')]
train_dataloader{update}(
    batch_size={size}, num_workers=0, persistent_workers=False)
val_cfg = val_dataloader = val_evaluator = None
"""
OWN = """
_base_ = '{repo}/configs/ltml_demo.py'
custom_imports = dict(imports=['ltml_mm', 'startup_probe'])
"""
SCHEDULE = """
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.003))
train_cfg = dict(by_epoch=True, max_epochs=1)
"""


def write_configs(folder: Path) -> dict[str, list[str]]:
    """Writes both configs and the stock one's data; returns the commands."""
    (folder / 'startup_probe.py').write_text(without_multimodal() + PROBE)
    rng = np.random.default_rng(0)
    entries = []
    for i in range(64):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
        entries.append({'img_path': f'{i}.png', 'gt_label': [i % 10]})
    metainfo = {'classes': [f'class {k}' for k in range(10)]}
    text = {'metainfo': metainfo, 'data_list': entries}
    (folder / 'train.json').write_text(json.dumps(text))
    own = OWN.format(repo=REPO) + COMMON.format(update=' = dict', size=16)
    resize = "dict(type='Resize', scale=64),"
    stock = stock_config(
        folder, 'startup_probe', 18, 32, 10, 'train.json', resize
    )
    stock += SCHEDULE + COMMON.format(update='.update', size=32)
    (folder / 'own.py').write_text(own)
    (folder / 'stock.py').write_text(stock)
    return {
        name: [
            *(sys.executable, str(tool), str(folder / f'{name}.py')),
            *('--work-dir', str(folder / name)),
        ]
        for name, tool in TOOLS.items()
    }


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Returns seconds on the clock and of the processor."""
    paths = [str(REPO), str(folder), os.environ.get('PYTHONPATH', '')]
    before = os.times()
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    after = os.times()
    if done.returncode:
        raise RuntimeError(f'{command} failed:\n{done.stderr[-3000:]}')
    processor = (
        after.children_user
        + after.children_system
        - before.children_user
        - before.children_system
    )
    return wall, processor


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        commands = write_configs(Path(name))
        wall: dict[str, list[float]] = {key: [] for key in commands}
        processor: dict[str, list[float]] = {key: [] for key in commands}
        for repeat in range(args.warm_up + args.repeats):
            for key, command in commands.items():
                seconds = run(command, Path(name))
                if repeat >= args.warm_up:  # they fill the disk's cache
                    wall[key].append(seconds[0])
                    processor[key].append(seconds[1])
    result = {'seconds': wall, 'processor_seconds': processor}
    for label, times in (('', wall), ('processor_', processor)):
        median = medians(times)
        result[f'median_{label}seconds'] = median  # type: ignore[assignment]
        result[f'{label}ratio'] = median['own'] / median['stock']  # type: ignore[assignment]
    report(result, args.out)


if __name__ == '__main__':
    main()
