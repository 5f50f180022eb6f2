"""What a run must have in common with the run that it resumes."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from ltml_mm.datasets.two_stream import TwoStreamDataset

#: What follows where a fact differs between a checkpoint and the run.
CONSEQUENCES = {
    'training loop': 'epochs and steps are counted in another way',
    'processes': 'every step sees another number of images, drawn by other '
    'processes, and the learning rate no longer belongs to it',
    'batch size of a process': 'every step sees another number of images, '
    'and the learning rate no longer belongs to it',
    'steps of an epoch': 'schedules in steps and in epochs drift apart',
    'positions of an epoch': 'the order of the images is another one',
    'accumulated steps': 'the optimizer steps at other moments',
    'images': 'the order of the images is another one',
    'digest of the image list': 'a position stands for another image',
}


def accumulated_steps(runner: Runner) -> int:
    """Returns how many steps the optimizer accumulates gradients over."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return max(w._accumulative_counts for w in wrapper.values())
    return wrapper._accumulative_counts


def run_facts(runner: Runner) -> dict[str, int | str]:
    """Collects the facts of a run that its exact resume depends on.

    Args:
        runner: The runner, its train loop built.

    Returns:
        dict: Plain ints and strings under the keys of ``CONSEQUENCES``.
    """
    loader = runner.train_dataloader
    batches = loader.batch_sampler
    sampler = getattr(batches, 'sampler', loader.sampler)
    return {
        'training loop': type(runner.train_loop).__name__,
        'processes': runner.world_size,
        'batch size of a process': getattr(batches, 'batch_size', 0),
        'steps of an epoch': len(loader),
        'positions of an epoch': getattr(
            sampler, 'epoch_length', len(loader.dataset)
        ),
        'accumulated steps': accumulated_steps(runner),
        'images': len(loader.dataset),
        'digest of the image list': image_list_digest(loader.dataset),
    }


def compare_facts(
    saved: dict[str, int | str], current: dict[str, int | str]
) -> list[str]:
    """Describes every difference and what follows from it."""
    return [
        f'{key}: {saved.get(key)} -> {value} ({CONSEQUENCES[key]})'
        for key, value in current.items()
        if saved.get(key) != value
    ]


def image_list_digest(dataset: Any) -> str:
    """Digests file names and labels, in order; '' where there are none.

    Folders stay out of it, so that a data set may be moved.

    Args:
        dataset: A dataset with ``get_data_info``; others have no names.

    Returns:
        str: 16 hexadecimal digits.
    """
    if isinstance(dataset, TwoStreamDataset):
        dataset = dataset.dataset
    if isinstance(dataset, BaseDataset):
        # A dataset's own method may load or draw the image.
        read = partial(BaseDataset.get_data_info, dataset)
    elif hasattr(dataset, 'get_data_info'):
        read = dataset.get_data_info
    else:
        return ''
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        info = read(index)
        name = os.path.basename(str(info.get('img_path', '')))
        labels = [int(label) for label in _as_list(info.get('gt_label', ()))]
        digest.update(f'{name}\0{labels}\0'.encode())
    return digest.hexdigest()[:16]


def _as_list(labels: Any) -> list:
    if hasattr(labels, 'tolist'):
        labels = labels.tolist()
    return list(labels) if isinstance(labels, (list, tuple)) else [labels]
