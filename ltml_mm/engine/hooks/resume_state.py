"""The state that a resumed run continues from, and what identifies a run."""

from __future__ import annotations

import hashlib
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

#: The sections of a config that shape a training.
SHAPING = (
    'model', 'data_preprocessor', 'sync_bn', 'train_dataloader', 'train_cfg',
    'optim_wrapper', 'auto_scale_lr', 'param_scheduler', 'randomness',
)  # fmt: skip
#: Parts of the names of hooks that change weights or losses in a training.
SHAPING_HOOKS = (
    'AdaptiveMargins', 'DenseCL', 'EMA', 'Limit', 'PreciseBN', 'SimSiam',
    'SwAV', 'SwitchRecipe', 'SyncBuffers', 'WarmupParam',
)  # fmt: skip
#: What within them does not: first weights, folders, what sets may differ in,
#: kept images, workers, validations, what happens to steps not finite.
ASIDE = (
    'on_nonfinite', 'init_cfg', 'data_root', 'data_prefix', 'ann_file',
    'allow_outside', 'ignore_keys', 'image_cache', 'num_workers',
    'persistent_workers', 'pin_memory', 'prefetch_factor', 'val_interval',
    'val_begin', 'dynamic_intervals',
)  # fmt: skip
#: Prefixes of :func:`run_signature`'s keys after whose change the epoch
#: starts anew.
DATA_PREFIXES = (
    'processes', 'steps', 'images', 'digest', 'kind of loop', 'batch size',
    'train_dataloader',
)  # fmt: skip
#: The settings of an optimizer with which its momenta still fit.
NUMBERS = ('lr', 'weight_decay', 'momentum', 'betas', 'fused', 'foreach')
#: A longer list of values is compared by its digest.
MAX_TEXT = 200


def capture_random_states() -> dict[str, Any]:
    """Returns the states of all global generators of this process.

    Returns:
        dict: Tensors and plain values, which ``weights_only=True`` loads.
    """
    state: Any = np.random.get_state()
    name, keys, *rest = state
    cuda = torch.cuda.is_available()
    return {
        'python': random.getstate(),
        'numpy': (name, keys.tolist(), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if cuda else None,
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Sets all global generators to what was captured, on any device."""
    random.setstate(states['python'])
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


def gather_states(
    runner: Runner, random_states: dict[str, Any]
) -> list[dict[str, Any]]:
    """Collects the states of all processes; all of them must call it.

    Returns:
        list[dict]: Of each process ``random`` and, of several processes,
        ``buffers``: the running statistics of BatchNorm differ.
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
    return all_gather_object(own)


def restore_states(runner: Runner, ranks: list[dict[str, Any]]) -> None:
    """Restores the gathered states of this process, where there are any."""
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


def flat_schedulers(runner: Runner) -> list[Any]:
    """Returns the schedulers of all optimizers."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        return [s for group in schedulers.values() for s in group]
    return schedulers


def run_signature(runner: Runner) -> dict[str, Any]:
    """Collects what two runs must share to be one.

    Returns:
        dict: Plain values: facts of the data, and every setting of the
        config that shapes the training by its dotted name.
    """
    dataset = runner.train_dataloader.dataset
    sections = {name: runner.cfg.get(name) for name in SHAPING}
    hooks = [*(runner.cfg.get('custom_hooks') or ())]
    hooks += (runner.cfg.get('default_hooks') or {}).values()
    # Most other hooks only watch.
    sections['custom_hooks'] = [
        x for x in hooks if any(part in str(x) for part in SHAPING_HOOKS)
    ]
    if runner.cfg.get('train_dataloader') is None:
        # The Runner was built from objects, which tell a part of it.
        sections['kind of loop'] = type(runner.train_loop).__name__
        sections['batch size'] = runner.train_dataloader.batch_size
        sections['accumulated steps'] = accumulated_steps(runner)
    return {
        'processes': runner.world_size,
        'steps of an epoch': len(runner.train_dataloader),
        'images': len(dataset),
        'digest of the image list': image_list_digest(dataset),
        **dict(_settings(sections)),
    }


def _settings(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yields the settings within a part of a config."""
    if isinstance(value, (list, tuple)) and any(
        isinstance(item, (dict, list, tuple)) for item in value
    ):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield name, _plain(value)
        return
    for key, item in value.items():
        if key not in ASIDE:
            yield from _settings(item, f'{name}.{key}' if name else str(key))


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        value = [_plain(item) for item in value]
        text = repr(value)
        if len(text) <= MAX_TEXT:
            return value
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return f'{len(value)} values, {digest}'
    if value is None or isinstance(value, (int, float, str)):
        return value
    # A class or a function; of an object, its address must stay out.
    return getattr(value, '__qualname__', type(value).__name__)


def compare_signatures(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> dict[str, str]:
    """Describes every difference, by the name of the setting."""
    return {
        key: f'{key}: {saved.get(key)} -> {current.get(key)}'
        for key in {**saved, **current}
        if saved.get(key) != current.get(key)
    }


def follow_config(
    runner: Runner, checkpoint: dict[str, Any], changes: Iterable[str]
) -> None:
    """Lets the config set optimizer and schedules in place of a checkpoint.

    They stand where they would had the run had this config from its first
    step. Momenta go on where nothing but numbers changed. The checkpoint is
    changed in place, before it is loaded.
    """

    def advance(by_epoch: bool, count: int = 1) -> None:
        for _ in range(count):
            for scheduler in flat_schedulers(runner):
                if scheduler.by_epoch == by_epoch:
                    scheduler.step()

    steps = checkpoint['meta']['iter']
    length = len(runner.train_dataloader)
    with warnings.catch_warnings():
        # Of schedulers that step before their optimizer.
        warnings.simplefilter('ignore')
        for _ in range(checkpoint['meta']['epoch']):
            advance(False, min(length, steps))
            advance(True)
            steps = max(steps - length, 0)
        advance(False, steps)
    # Not left out: FlexibleRunner loads both whatever there is.
    checkpoint['param_schedulers'] = _states(runner.param_schedulers or [])
    parts = ('optimizer', 'paramwise_cfg', 'constructor')
    fits = not isinstance(runner.optim_wrapper, OptimWrapperDict) and all(
        key.split('.')[-1] in NUMBERS
        for key in changes
        if key.startswith(tuple(f'optim_wrapper.{part}' for part in parts))
    )
    own = runner.optim_wrapper.state_dict()
    saved = checkpoint.get('optimizer', {}).get('param_groups', ())
    # Groups of equal numbers are one, and momenta go by position.
    if fits and saved and _sizes(saved) == _sizes(own['param_groups']):
        for name in own.keys() & {'param_groups', 'base_param_settings'}:
            checkpoint['optimizer'][name] = own[name]
        # bfloat16 saves an empty scale, which float16 would refuse.
        if not checkpoint['optimizer'].get('loss_scaler', True):
            del checkpoint['optimizer']['loss_scaler']
    else:
        checkpoint['optimizer'] = own
        runner.logger.warning('the optimizer starts anew, without momenta')


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group['params']) for group in groups]


def _states(part: Any) -> Any:
    """Returns the states of schedulers, in lists or dicts of lists."""
    if isinstance(part, dict):
        return {name: _states(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_states(value) for value in part]
    return part.state_dict()


def image_list_digest(dataset: Any) -> str:
    """Digests file names and labels, in order; '' where there are none.

    Folders stay out of it, so that a data set may be moved.

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
