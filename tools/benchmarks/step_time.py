"""Compares the two-branch network with a stock one on as many images.

Training step (forward, loss, backward, optimizer) and prediction of
``CollaborativeTwoBranchClassifier`` over those of MMPretrain's
``ImageClassifier`` with the same backbone, in turns within one run. Beside
the ratios stand the FLOPs of one step and the peak memory.

Example:
    python tools/benchmarks/step_time.py --out step_time.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ltml_cli.options import parse_cfg_options
from timing import medians, report, time_in_turns

TASKS = ('training', 'prediction')
#: Each with its name in torch.
PRECISIONS = {'fp32': 'float32', 'fp16': 'float16', 'bf16': 'bfloat16'}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=64, help='per step')
    parser.add_argument('--side', type=int, default=224, help='in pixels')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
    parser.add_argument(
        '--backbone',
        nargs='+',
        default=['type=ResNet', 'depth=50'],
        help='config of the backbone as key=value',
    )
    parser.add_argument('--device', default=None, help='cpu or cuda')
    parser.add_argument(
        '--layout',
        choices=('contiguous', 'channels_last'),
        help='of the weights (default: what DeviceHook chooses)',
    )
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='fp16',
        help='of a GPU; a CPU computes in float32 (default: fp16)',
    )
    parser.add_argument(
        '--compile', action='store_true', help='into CUDA graphs on a GPU'
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args(argv)
    args.backbone = parse_cfg_options(args.backbone)
    return args


if __name__ == '__main__':
    parse_args()  # --help and refusals come before imports of seconds.

# Ahead of MMPretrain, which does not import beside some other packages.
import ltml_mm  # noqa: F401

# isort: split
import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils.flop_counter import FlopCounterMode

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.engine.hooks.device_hook import arrange
from ltml_mm.models.fork.branches import BRANCHES
from ltml_mm.models.parts import last_shape, probe_features

KINDS = ('stock', 'two_branch')
NUM_CLASSES = 20
STATISTICS = ClassStatistics((50,) * NUM_CLASSES, num_images=1000)


def build(kind: str, backbone: dict, device: str) -> torch.nn.Module:
    """Builds one of the two networks."""
    if kind == 'two_branch':
        config: dict[str, Any] = dict(
            type='CollaborativeTwoBranchClassifier',
            backbone=backbone,
            num_classes=NUM_CLASSES,
        )
    else:
        width = _feature_width(backbone)
        config = dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='MultiLabelLinearClsHead',
                num_classes=NUM_CLASSES,
                in_channels=width,
            ),
        )
    # It would tell the initialisation of each parameter.
    MMLogger.get_current_instance().setLevel('WARNING')
    model = MODELS.build(config)
    model.init_weights()
    for module in model.modules():
        if hasattr(module, 'set_class_statistics'):
            module.set_class_statistics(STATISTICS)
    return model.to(device)


def _feature_width(backbone: dict) -> int:
    return last_shape(probe_features(MODELS.build(backbone)))[1]


def make_batch(kind: str, images: torch.Tensor) -> dict[str, Any]:
    """Makes a training batch as the preprocessor of a network hands it on.

    MMPretrain's moves the labels, too; of two streams they stay on the host.
    """
    samples = [
        DataSample().set_gt_label([i % NUM_CLASSES])
        for i in range(len(images))
    ]
    if kind == 'stock':
        moved = [sample.to(images.device) for sample in samples]
        return dict(inputs=images, data_samples=moved)
    half = len(images) // 2
    parts = (slice(half), slice(half, None))
    return dict(
        inputs={b: images[p] for b, p in zip(BRANCHES, parts, strict=True)},
        data_samples={
            b: samples[p] for b, p in zip(BRANCHES, parts, strict=True)
        },
    )


def training_step(
    model: torch.nn.Module,
    batch: dict[str, Any],
    autocast: Callable[[], AbstractContextManager],
) -> Callable[[], None]:
    """Returns a function that takes one training step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        model.train()
        with autocast():
            losses = model(**batch, mode='loss')
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        optimizer.zero_grad()  # Graphs must not find a gradient of theirs.

    return step


def prediction(
    model: torch.nn.Module,
    images: torch.Tensor,
    autocast: Callable[[], AbstractContextManager],
) -> Callable[[], None]:
    """Returns a function that predicts one batch."""

    def predict() -> None:
        model.eval()
        with torch.inference_mode(), autocast():
            model(images, mode='predict')

    return predict


def flops(function: Callable[[], None]) -> int:
    """Counts the floating-point operations of a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops()


def peak_memory(task: str, kind: str, options: dict[str, Any]) -> int:
    """Returns the peak memory of one network by itself, in bytes.

    To be run in a new process: on a CPU the figure is the peak of the
    resident set over what the process held before; on a GPU it is what
    PyTorch allocated there.
    """
    before = _peak_resident()
    torch.backends.cudnn.benchmark = True
    run = make_task(task, kind, options)
    run()
    if options['device'] == 'cpu':
        return _peak_resident() - before
    torch.cuda.reset_peak_memory_stats()
    run()  # With momenta, which the first step makes.
    return torch.cuda.max_memory_allocated()


def _peak_resident() -> int:
    # Not ru_maxrss, which a new process inherits from the one that made it.
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024
    raise OSError('/proc/self/status does not tell the peak memory')


def make_task(
    task: str, kind: str, options: dict[str, Any]
) -> Callable[[], None]:
    """Returns a function that trains or predicts one batch.

    Args:
        task: ``'training'`` or ``'prediction'``.
        kind: ``'stock'`` or ``'two_branch'``.
        options: ``images``, ``side``, ``backbone``, ``device``, ``layout``,
            ``precision`` and ``compile``.
    """
    device = options['device']
    torch.manual_seed(0)
    side = options['side']
    images = torch.rand(options['images'], 3, side, side, device=device)
    model = build(kind, dict(options['backbone']), device)
    arrange(model, options['layout'] or 'auto', side)
    if options['compile']:
        model.forward = torch.compile(model.forward, mode='reduce-overhead')
    precision = getattr(torch, PRECISIONS[options['precision']])

    def autocast() -> AbstractContextManager:
        if device == 'cpu' or precision == torch.float32:
            return nullcontext()
        return torch.autocast(device, dtype=precision)

    if task == 'training':
        return training_step(model, make_batch(kind, images), autocast)
    return prediction(model, images, autocast)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the figures."""
    args = parse_args(argv)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    options: dict[str, Any] = {
        'device': device,
        'images': args.images,
        'side': args.side,
        'backbone': args.backbone,
        'layout': args.layout,
        'precision': args.precision,
        'compile': args.compile,
    }
    torch.backends.cudnn.benchmark = True
    wait = torch.cuda.synchronize if device != 'cpu' else lambda: None
    result = {**options, 'threads': torch.get_num_threads()}
    for task in args.tasks:
        memory = {}
        for kind in KINDS:
            with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                memory[kind] = pool.submit(
                    peak_memory, task, kind, options
                ).result()
        functions = {kind: make_task(task, kind, options) for kind in KINDS}
        # Of networks that are never compiled: what runs first under the
        # counter would stay eager.
        eager = {**options, 'compile': False}
        operations = {
            kind: flops(make_task(task, kind, eager)) for kind in KINDS
        }
        times = time_in_turns(functions, args.repeats, wait)
        median = medians(times)
        result[task] = {
            'seconds': times,
            'median_seconds': median,
            'time_ratio': median['two_branch'] / median['stock'],
            'flops': operations,
            'flops_ratio': operations['two_branch'] / operations['stock'],
            'peak_bytes': memory,
            'peak_ratio': memory['two_branch'] / memory['stock'],
        }
    report(result, args.out)


if __name__ == '__main__':
    main()
