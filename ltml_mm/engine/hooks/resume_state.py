"""The state that a resumed run continues from, and what identifies a run."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather_object
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from ltml_mm.datasets.two_stream import TwoStreamDataset

#: What follows where the signature of a run differs from a checkpoint's.
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


def capture_random_states() -> dict[str, Any]:
    """Returns the states of all global generators of this process.

    Returns:
        dict: Of ``python``, ``numpy``, ``torch`` and ``cuda`` (None without
        a GPU): tensors and plain values only, so that a checkpoint with it
        loads under ``weights_only=True``.
    """
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, *rest = state
    on_gpu = torch.cuda.is_available()
    return {
        'python': (version, torch.tensor(words), gauss),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if on_gpu else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets all global generators of this process.

    Args:
        states: What :func:`capture_random_states` returned; its tensors may
            have moved to another device.
    """
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


def gather_states(
    runner: Runner, random_states: dict[str, Any]
) -> list[dict[str, Any]]:
    """Collects the states of all processes; all of them must call it.

    Args:
        runner: The runner.
        random_states: Those of this process.

    Returns:
        list[dict]: Per process ``random`` and ``buffers``: the buffers of
        the model in which it differs from process 0, as the running
        statistics of BatchNorm do.
    """
    # Weights are equal on all processes, and process 0 writes its buffers.
    own: dict[str, Any] = {'random': random_states, 'buffers': {}}
    if runner.world_size == 1:
        return [own]
    model = unwrap_model(runner.model)
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            own['buffers'][name] = buffer.detach().cpu()
    ranks = all_gather_object(own)
    first = ranks[0]['buffers']
    for rank in reversed(ranks):  # The first one last, which empties it.
        for name, value in list(rank['buffers'].items()):
            if torch.equal(value, first[name]):
                del rank['buffers'][name]
    return ranks


def restore_states(runner: Runner, ranks: Sequence[dict[str, Any]]) -> None:
    """Restores the states of this process, where there are any.

    Args:
        runner: The runner, its model loaded.
        ranks: What :func:`gather_states` returned.
    """
    if runner.rank >= len(ranks):
        return
    own = ranks[runner.rank]
    buffers = dict(unwrap_model(runner.model).named_buffers())
    with torch.no_grad():
        for name, value in own['buffers'].items():
            buffers[name].copy_(value)
    restore_random_states(own['random'])


def unwrap_model(model: Any) -> torch.nn.Module:
    """Returns the model within wrappers for processes and augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def accumulated_steps(runner: Runner) -> int:
    """Returns how many steps the optimizer accumulates gradients over."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return max(w._accumulative_counts for w in wrapper.values())
    return wrapper._accumulative_counts


def run_signature(runner: Runner) -> dict[str, int | str]:
    """Collects the properties that an exact resume depends on.

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


def compare_signatures(
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
        labels = np.ravel(info.get('gt_label', ())).astype(int).tolist()
        digest.update(f'{name}\0{labels}\0'.encode())
    return digest.hexdigest()[:16]
