"""Tells what limits a training on this machine and these data, and what helps.

Loads some batches of a config, and trains a few steps on one of them, in
about two minutes; nothing is saved but decoded images (``image_cache``). It
prints where the time of a batch goes: each step of the pipeline, the batch,
the copy to the device, forward, backward and optimizer; what the workers
deliver; whether the loader, the device or, beside a GPU, the host that starts
its kernels is the limit; and which settings to change. Works for MMPretrain's
own configs, too.

Example:
    python tools/benchmarks/throughput.py configs/ltml_custom.py \
        --cfg-options data_root=data/mine
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltml_cli.options import add_cfg_options
from timing import report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)
    parser.add_argument('--images', type=int, default=256, help='to load')
    parser.add_argument('--device', help='cpu or cuda')
    parser.add_argument(
        '--seconds', type=float, default=20, help='for each measurement'
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

import cv2
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ltml_mm.apis.config import load_config
from ltml_mm.apis.learning_rate import fill_learning_rate
from ltml_mm.apis.model import build_model, pick_device, scope_of
from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.engine.hooks.device_hook import (
    arrange,
    find_overrun,
    fit_optimizer,
    layout_of,
    picture_side,
)

LOADING = ('LoadImageFromFile', 'LoadCheckedImage')


class Timed:
    """A step of a pipeline that counts its time."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.seconds = 0.0

    def __call__(self, results: dict) -> Any:
        """Runs the step."""
        start = time.perf_counter()
        results = self.step(results)
        self.seconds += time.perf_counter() - start
        return results


def measure_pipeline(loader: Any, images: int) -> dict[str, Any]:
    """Loads images in this process, twice; returns milliseconds an image.

    The second time, what is kept decoded is not decoded again.
    """
    pipelines = [
        data.pipeline.transforms
        for data in innermost_datasets(loader)
        if hasattr(getattr(data, 'pipeline', None), 'transforms')
    ]
    for steps in pipelines:
        steps[:] = [Timed(step) for step in steps]
    passes = {}
    draws = list(itertools.islice(iter(loader.sampler), images))
    per_draw = 1
    if draws and isinstance(draws[0], Mapping):
        per_draw = sum(key != 'draw' for key in draws[0])
    draws = draws[: max(1, images // per_draw)]
    count = len(draws) * per_draw
    for name in ('first_pass', 'second_pass'):
        for step in itertools.chain(*pipelines):
            step.seconds = 0.0
        start = time.perf_counter()
        samples = [loader.dataset[draw] for draw in draws]
        whole = time.perf_counter() - start
        found: dict[str, float] = {}
        for step in itertools.chain(*pipelines):
            kind = type(step.step).__name__
            found[kind] = found.get(kind, 0.0) + step.seconds
        found['other'] = whole - sum(found.values())
        start = time.perf_counter()
        loader.collate_fn(samples)
        found['batch'] = time.perf_counter() - start
        passes[name] = {key: 1000 * t / count for key, t in found.items()}
    for steps in pipelines:
        steps[:] = [step.step for step in steps]
    return passes


def measure_workers(loader: Any, seconds: float) -> tuple[Any, float]:
    """Returns a batch and the seconds of one through the loader's workers.

    Measured after as long again, in which images are decoded that are kept.
    """
    batch = next(iter(loader))
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in ('first', 'measured'):
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            next(batches)
            count += 1
    return batch, (time.perf_counter() - start) / count


def halve(batch: Any) -> Any:
    """Returns the first half of a batch."""
    if isinstance(batch, Mapping):
        return {key: halve(value) for key, value in batch.items()}
    return batch[: max(1, len(batch) // 2)]


def count_images(inputs: Any) -> int:
    """Returns the images of a batch, over all streams."""
    if isinstance(inputs, Mapping):
        return sum(len(images) for images in inputs.values())
    return len(inputs)


class Training:
    """Training steps on one batch, timed by part."""

    def __init__(self, cfg: Config, dataset: Any, device: torch.device):
        model = build_model(cfg)
        model.init_weights()
        counts = getattr(dataset, 'metainfo', None) or {}
        if COUNTS_KEY in counts:
            known = ClassStatistics.from_metainfo(counts)
            for module in model.modules():
                if hasattr(module, 'set_class_statistics'):
                    module.set_class_statistics(known)
        self.model: Any = model.to(device)
        # The Runner compiles whole steps, whose parts are timed here.
        if options := cfg.get('compile'):
            model.compile(**({} if options is True else options))
        self.device = device
        self.wrapper: Any = build_optim_wrapper(
            self.model, cfg.optim_wrapper.to_dict()
        )

    def clock(self) -> float:
        """Returns the time when all that was started is done."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, batch: Any, wait: bool = True) -> dict[str, float]:
        """Trains one step; returns the seconds of its parts.

        Without ``wait`` a part ends when the device has been told of it.
        """
        self.model.train()
        clock = self.clock if wait else time.perf_counter
        times = [self.clock()]
        data = self.model.data_preprocessor(batch, True)
        times.append(clock())
        with self.wrapper.optim_context(self.model):
            losses = self.model(**data, mode='loss')
            loss, _ = self.model.parse_losses(losses)
        times.append(clock())
        self.wrapper.backward(loss)
        times.append(clock())
        self.wrapper.step()
        self.wrapper.zero_grad()
        times.append(clock())
        names = ('copy', 'forward', 'backward', 'optimizer')
        return {
            name: end - start
            for name, start, end in zip(names, times, times[1:], strict=False)
        }

    def measure_whole(self, batch: Any, seconds: float) -> dict[str, float]:
        """Returns median milliseconds of steps that wait at their end alone.

        ``host``: until the host has started all; ``step``: until it is done.
        """
        self.step(batch)
        end = time.perf_counter() + seconds
        found: list[tuple[float, float]] = []
        while not found or (time.perf_counter() < end and len(found) < 50):
            start = self.clock()
            host = sum(self.step(batch, wait=False).values())
            found.append((host, self.clock() - start))
        times = zip(('host', 'step'), zip(*found, strict=True), strict=True)
        return {name: 1000 * statistics.median(own) for name, own in times}

    def measure(self, batch: Any, seconds: float) -> dict[str, float]:
        """Returns the median milliseconds of each part."""
        self.step(batch)
        end = time.perf_counter() + seconds
        steps = [self.step(batch)]
        while time.perf_counter() < end and len(steps) < 50:
            steps.append(self.step(batch))
        return {
            key: 1000 * statistics.median(step[key] for step in steps)
            for key in steps[0]
        }


def measure_device(
    cfg: Config, batch: Any, dataset: Any, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Times steps, in both layouts, and of half of the batch."""
    training = Training(cfg, dataset, device)
    # MMPretrain's own configs have no such hook.
    hook = (cfg.get('default_hooks') or {}).get('device')
    layout = layout_of(cfg) if hook else 'contiguous'
    arrange(training.model, layout, picture_side(cfg.train_dataloader))
    if hook:
        fit_optimizer(training.wrapper.optimizer)
        training.wrapper.reads_late = True  # As SafeCheckpointHook has it.
    result: dict[str, Any] = {'parts': training.measure(batch, seconds)}
    result.update(training.measure_whole(batch, seconds / 2))
    last = [
        m.weight.is_contiguous(memory_format=torch.channels_last)
        and not m.weight.is_contiguous()
        for m in training.model.modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    result['layout'] = 'channels_last' if any(last) else 'contiguous'
    half = halve(batch)
    result['images'] = count_images(batch['inputs'])
    result['images_of_half'] = count_images(half['inputs'])
    result['half'] = training.measure_whole(half, seconds / 2)['step']
    layouts: dict[str, Callable[[], Any]] = {
        'contiguous': lambda: training.model.to(
            memory_format=torch.contiguous_format
        ),
        'channels_last': lambda: arrange(training.model, 'channels_last'),
    }
    if find_overrun(training.model):
        del layouts['channels_last']
    result['layouts'] = {}
    for name, change in layouts.items():
        change()
        # Momenta have the layout of the weights.
        training.wrapper.optimizer.state.clear()
        whole = training.measure_whole(batch, seconds / 2)
        result['layouts'][name] = whole['step']
    return result


def advise(
    cfg: Config, loader: Any, result: dict[str, Any], processors: int
) -> tuple[str, list[str]]:
    """Names the limit, and what to set."""
    device = result['device']
    loads, computes = result['loader_ms'], device['step']
    first, second = result['pipeline'].values()
    images = device['images']
    load_one = sum(second.values()) * images  # ms of one worker a batch
    needed = max(1, math.ceil(1.25 * load_one / computes))
    lines = []
    waits = loads > computes
    limit = 'the loader' if waits else 'the device'
    on_gpu = result['machine']['device'] != 'cpu'
    if on_gpu and not waits and device['host'] > 0.9 * computes:
        limit = 'the host'
        if not cfg.get('compile'):
            lines.append(
                'compile.mode=reduce-overhead: the host takes '
                f'{device["host"]:.0f} of the {computes:.0f} ms of a step to '
                'start its kernels; CUDA graphs start them at once '
                '(docs/speed.md)'
            )
    if waits and needed > loader.num_workers:
        lines.append(
            f'train_dataloader.num_workers={min(needed, processors)} (now '
            f'{loader.num_workers}): a worker takes {load_one:.0f} ms for a '
            f'batch, the device {computes:.0f}'
            + (
                f'; {needed} would be needed, the machine has {processors} '
                'processors'
                if needed > processors
                else ''
            )
        )
    kinds = [kind for kind in first if kind in LOADING]
    decoding = sum(second[kind] for kind in kinds)
    if waits and kinds and decoding > 0.5 * sum(first[kind] for kind in kinds):
        how = (
            'LoadCheckedImage in place of LoadImageFromFile, in a '
            'LongTailMultiLabelDataset, and '
            if 'LoadImageFromFile' in kinds
            else ''
        )
        kept = cfg.get('image_cache') == 'auto'  # Yet not all of them fit.
        auto = '' if kept else 'image_cache=auto, or '
        lines.append(
            f'{how}{auto}image_cache=N, a number of GiB that holds the '
            f'images: {decoding:.2f} of {sum(second.values()):.2f} ms an '
            'image go into reading and decoding (docs/speed.md)'
        )
    best = min(device['layouts'], key=device['layouts'].get)
    gain = max(device['layouts'].values()) / min(device['layouts'].values())
    if gain > 1.05 and best != device['layout']:
        kind = (
            ''
            if (cfg.get('default_hooks') or {}).get('device')
            else ('default_hooks.device.type=DeviceHook ')
        )
        lines.append(
            f'{kind}default_hooks.device.memory_format={best}: a step takes '
            f'{device["layouts"][best]:.0f} ms in it, {gain:.2f} times less '
            'than in the other layout'
        )
    rate = images / computes
    half_rate = device['images_of_half'] / device['half']
    if rate > 1.1 * half_rate:
        lines.append(
            f'a larger batch: half of it trains {half_rate / rate:.0%} of '
            'the images a second, so twice as many may train more; the '
            'learning rate goes with it (--auto-scale-lr)'
        )
    if 'augment_on' in cfg and waits and needed > processors:
        lines.append(
            'augment_on=device: distortion and mirroring on the device'
        )
    return limit, lines or ['nothing: the settings fit this machine']


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    fill_learning_rate(cfg)
    init_default_scope(scope_of(cfg))
    cv2.setNumThreads(0)
    MMLogger.get_current_instance().setLevel('WARNING')
    device = pick_device(args.device)
    exact = bool((cfg.get('randomness') or {}).get('deterministic'))
    torch.use_deterministic_algorithms(exact)
    if exact:  # As DeviceHook does.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    if device.type == 'cuda':
        chosen = bool((cfg.get('env_cfg') or {}).get('cudnn_benchmark'))
        torch.backends.cudnn.benchmark = chosen and not exact
    config = cfg.train_dataloader.to_dict()
    if device.type == 'cpu':
        config['pin_memory'] = False
    loader = Runner.build_dataloader(config, seed=0)
    result: dict[str, Any] = {
        'config': args.config,
        'machine': {
            'device': str(device),
            'name': torch.cuda.get_device_name(device)
            if device.type == 'cuda'
            else '',
            'processors': len(os.sched_getaffinity(0)),
        },
        'pipeline': measure_pipeline(loader, args.images),
    }
    batch, seconds = measure_workers(loader, args.seconds)
    result['loader_ms'] = 1000 * seconds
    result['device'] = measure_device(
        cfg, batch, loader.dataset, device, args.seconds
    )
    limit, lines = advise(cfg, loader, result, result['machine']['processors'])
    result['limit'], result['set'] = limit, lines
    result['images_a_second'] = {
        'loader': result['device']['images'] / seconds,
        'device': 1000 * result['device']['images'] / result['device']['step'],
    }
    report(result, args.out)
    print(f'\nThe limit is {limit}. What to set:')
    for line in lines:
        print(f'- {line}')


if __name__ == '__main__':
    main()
