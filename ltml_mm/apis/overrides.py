"""Overrides of a config: refuses what nothing reads, and fits the schedule."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from typing import Any

import mmpretrain.registry
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils import import_modules_from_strings
from torch.utils.data import DataLoader

from ltml_cli.options import FLAGS, SIZE, WEIGHTS
from ltml_mm.apis.weights import set_weights
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.models.parts import FORK_DEFAULTS, FORK_SPELLINGS

#: A config as a plain dict.
Tree = Mapping[str, Any]
#: Entries at the top of a config that go to the datasets which read files.
DATA_KEYS = ('data_root', 'data_prefix', 'allow_outside')
#: Sections that the Runner, MMPretrain's tools or these tools read.
SECTIONS = (
    'optim_wrapper', 'train_dataloader', 'train_cfg', 'model', 'randomness',
    *DATA_KEYS, 'activation_checkpointing', 'augment_on', 'auto_scale_lr',
    'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'image_cache', 'model_wrapper_cfg',
    'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline',
    *list(inspect.signature(Runner.__init__).parameters)[1:-1],
)  # fmt: skip
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
#: Which argument of a transform is the size that the network sees.
SIZES = {
    'Resize': 'scale', 'RandomResizedCrop': 'scale', 'CenterCrop': 'crop_size',
    'RandomCrop': 'crop_size',
}  # fmt: skip
#: The schedules that are scaled, by what their names begin with.
SCALED = ('Linear', 'Constant', 'MultiStep', 'Step', 'CosineAnnealing', 'Poly')


def apply_overrides(cfg: Config, options: Mapping[str, Any]) -> None:
    """Sets entries of a config, in place, ahead of its completion.

    A key changes an entry that is there, or adds one that its owner takes: an
    argument of the class that ``type`` names, or an entry of a section whose
    reader is known. Where that cannot be told (hooks, streams, dicts of one's
    own) any key is taken. Another number of epochs scales the schedule,
    unless the options set ``param_scheduler``, too. The flags ``--size`` and
    ``--weights`` are keys as well.

    Raises:
        ValueError: Nothing reads a key, its value does not fit, or a schedule
            cannot be scaled; names the nearest keys.
    """
    before = cfg.to_dict()
    keyed = {k: v for k, v in options.items() if k not in (SIZE, WEIGHTS)}
    for key, value in keyed.items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f'--cfg-options {key}={value!r} does not fit the config: '
                f'{str(error.args[0]).split(" [")[0]}'
            ) from error
    if any(key.startswith('custom_imports') for key in keyed):
        import_modules_from_strings(**cfg.custom_imports)
    after = cfg.to_dict()
    for key, value in keyed.items():
        _check_key(before, after, key, value)
    if SIZE in options:
        _set_size(cfg, options[SIZE])
    if WEIGHTS in options:
        set_weights(cfg, options[WEIGHTS])
    if not any(key.startswith('param_scheduler') for key in keyed):
        _fit_schedule(cfg, before)


def _check_key(before: Tree, cfg: Tree, key: str, value: Any) -> None:
    """Refuses a key that was not there and that nothing reads."""
    old: Any = before
    node: Any = cfg
    parts = key.split('.')
    if parts[0] == 'launcher':
        raise ValueError(f'--cfg-options {key} does nothing: use --launcher')
    if parts[0] in DATA_KEYS:
        _check_takers(before, cfg, parts[0])
    for depth, part in enumerate(parts):
        there = _child(old, part, None)
        if there is None or (depth == 0 and part not in SECTIONS):
            taken = _taken(node, parts[:depth], before)
            if taken is not None and part not in taken:
                place = '.'.join(parts[:depth]) or 'the config'
                raise ValueError(
                    f'--cfg-options {key}: nothing reads {part!r} in {place}'
                    f'{_suggest(before, key, taken)}'
                )
        old, node = there, _child(node, part, {})
    if isinstance(value, Mapping):
        for name, entry in value.items():
            _check_key(before, cfg, f'{key}.{name}', entry)


def _child(node: Any, name: str, default: Any) -> Any:
    """Returns an entry of a dict or a list; ``default`` where it is not."""
    if isinstance(node, Mapping) and name in node:
        found = node[name]
        # An entry that is None is there.
        return {} if found is None and default is None else found
    if isinstance(node, (list, tuple)) and name.lstrip('-').isdecimal():
        return node[int(name)] if abs(int(name)) < len(node) else default
    return default


def _check_takers(before: Tree, cfg: Tree, key: str) -> None:
    """Refuses an entry for the datasets that none of them takes."""
    from ltml_mm.apis.config import FILE_DATASETS, dataset_configs

    datasets = [*dataset_configs(cfg)]
    takers = [
        dataset
        for dataset in datasets
        if dataset.get('type') in FILE_DATASETS and key not in dataset
    ]
    if datasets and not takers:
        kinds = ', '.join(sorted({str(d.get('type')) for d in datasets}))
        raise ValueError(
            f'{key} does nothing in this config, whose data are {kinds}'
            f'{_suggest(before, key, None)}'
        )


def _taken(node: Any, path: list[str], cfg: Tree) -> set[str] | None:
    """Names the entries that the owner of a node takes, None for any."""
    if not path:
        imports = (cfg.get('custom_imports') or {}).get('imports') or ()
        own = {imports} if isinstance(imports, str) else {*imports}
        # Modules of one's own may read an entry of one's own.
        return {*SECTIONS, *(cfg if own - {'ltml_mm'} else ())}
    if not isinstance(node, Mapping):
        return None
    always = {'type', '_delete_', '_scope_'}
    if path == ['optim_wrapper']:
        further = ('optimizer', 'constructor', 'paramwise_cfg')
        taken = _arguments(AmpOptimWrapper)  # --amp takes it later
        own_type = _find_type(node.get('type'))
        own_taken = _arguments(own_type) if own_type else set()
        if taken is None or own_taken is None:
            return None
        return {*taken, *own_taken, *further} | always
    if 'type' in node:
        found = _find_type(node['type'])
        taken = _arguments(found) if found else None
        if taken and 'fork' in taken:
            taken = taken | {*FORK_SPELLINGS, 'train_cfg', 'test_cfg'}
        return None if taken is None else taken | always
    readers = _readers(node)
    known = readers.get('.'.join(path)) or readers.get(f'*.{path[-1]}')
    return None if known is None else known | always


def _readers(node: Mapping[str, Any]) -> dict[str, set[str]]:
    """Names what is read of each section that has no type."""
    loop = EpochBasedTrainLoop if node.get('by_epoch') else IterBasedTrainLoop
    loader = _names(DataLoader.__init__) | {'num_batch_per_epoch'}
    return {
        **dict.fromkeys(LOADERS, loader),
        'train_cfg': _names(loop.__init__) | {'by_epoch'},
        'val_cfg': _names(ValLoop.__init__),
        'test_cfg': _names(TestLoop.__init__),
        'randomness': _names(Runner.set_randomness),
        'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
        'auto_scale_lr': {'base_batch_size', 'enable'},
        'log_processor': _names(LogProcessor.__init__),
        'custom_imports': {'imports', 'allow_failed_imports'},
        'optim_wrapper.paramwise_cfg': {
            *re.findall(
                r"paramwise_cfg\.get\(\s*'(\w+)'",
                inspect.getsource(DefaultOptimWrapperConstructor),
            ),
            *('custom_keys', 'trunk_lr_mult'),
        },
        '*.fork': {*FORK_DEFAULTS},
    }


def _names(function: Callable[..., Any]) -> set[str]:
    return {*inspect.signature(function).parameters} - {'self'}


def _arguments(cls: Any) -> set[str] | None:
    """Names the arguments of a class and those it hands on, None for any."""
    if not inspect.isclass(cls):
        return None
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(vars(base)['__init__']).parameters
        names |= {*parameters} - {'self'}
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return names
    return None


def _find_type(name: Any) -> Any:
    """Finds a registered class by its name, None where there is none."""
    if not isinstance(name, str):
        return name
    for table in vars(mmpretrain.registry).values():
        if isinstance(table, Registry) and (found := table.get(name)):
            return found
    return None


def _suggest(cfg: Tree, key: str, taken: Any) -> str:
    """Names the nearest keys, by their last part, and the flag for them."""
    leaf = key.rpartition('.')[2]
    sections = [s for s in dict.fromkeys(SECTIONS) if s in cfg]
    paths = dict(pair for s in sections for pair in _paths(cfg[s], s))
    same = [p for p in paths if p.rpartition('.')[2] == leaf and p != key]
    value = cfg.get(key)
    if isinstance(value, (Mapping, list)) and key not in SECTIONS:
        # A part that the file has put elsewhere already.
        same = [p for p, entry in paths.items() if entry == value]
    section, _, rest = key.partition('.')
    if section not in SECTIONS and rest and not same:
        sections = get_close_matches(section, dict.fromkeys(SECTIONS), 1)
        same = [f'{name}.{rest}' for name in sections]
    near = [*same]
    if not near and taken is not None:
        leaves = {p.rpartition('.')[2]: p for p in reversed(paths)}
        own = key.removesuffix(leaf)
        leaves |= {name: own + name for name in taken}
        near = [leaves[n] for n in get_close_matches(leaf, leaves, 3)]
    flags = {name: flag for flag, name in FLAGS.items()}
    flag = flags.get(leaf) or next(
        (flags[p] for p in near if p in flags),
        f'--{leaf}' if f'--{leaf}' in FLAGS else None,
    )
    near = [*near[:3], *([flag] if flag and taken is not None else [])]
    return f'; did you mean {" or ".join(near)}?' if near else ''


def _paths(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields the dotted keys of a node and of all within it, and these."""
    yield path, node
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for name, value in items:
        yield from _paths(value, f'{path}.{name}')


def _set_size(cfg: Config, size: int) -> None:
    """Makes every pipeline show images of this size to the network."""
    for name in LOADERS:
        loader = cfg.get(name)
        for dataset in innermost_datasets(loader) if loader else ():
            sized = [
                (step, SIZES[step['type']])
                for step in _steps(dataset.get('pipeline') or ())
                if step.get('type') in SIZES
            ]
            if not any(step['type'] != 'RandomCrop' for step, _ in sized):
                raise ValueError(
                    f'--size: the pipeline of {name} has none of '
                    f'{", ".join(SIZES)}, which would resize its images'
                )
            for step in _steps(dataset['pipeline']):
                if step.get('type') == 'ResizeEdge':
                    # As much larger than what is cut from it as before.
                    old = _side(sized[-1][0][sized[-1][1]])
                    step['scale'] = round(_side(step['scale']) * size / old)
            for step, entry in sized:
                step[entry] = (size, size)
    backbone = cfg.model.get('backbone') or {}
    taken = _arguments(_find_type(backbone.get('type')))
    if 'img_size' in backbone or (taken and 'img_size' in taken):
        backbone['img_size'] = size


def _side(size: Any) -> int:
    return size if isinstance(size, int) else size[0]


def _steps(pipeline: Any) -> Iterator[MutableMapping[str, Any]]:
    """Yields the transforms of a pipeline and those within them."""
    for step in pipeline:
        if isinstance(step, MutableMapping):
            yield step
            yield from _steps(step.get('transforms') or ())
        elif isinstance(step, (list, tuple)):
            yield from _steps(step)


def _fit_schedule(cfg: Config, before: Tree) -> None:
    """Scales drops, warm-ups and ends to another number of epochs."""
    old_loop, loop = before.get('train_cfg') or {}, cfg.get('train_cfg') or {}
    for entry in ('max_epochs', 'max_iters'):
        old, new = old_loop.get(entry), loop.get(entry)
        if old == new or not isinstance(old, int) or not isinstance(new, int):
            continue
        schedulers: Any = cfg.get('param_scheduler') or []
        single = isinstance(schedulers, Mapping)
        for scheduler in [schedulers] if single else schedulers:
            kind = str(scheduler.get('type'))
            if kind.startswith('ReduceOnPlateau'):
                continue  # It follows the validations, not the epochs.
            if not kind.startswith(SCALED):
                raise ValueError(
                    f'--epochs {new}: it is not known how {kind}, in '
                    f'param_scheduler, changes from {old} to {new}; give '
                    'param_scheduler with --cfg-options, too'
                )
            if new > 0:
                _fit(scheduler, old, new)


def _fit(scheduler: Any, old: int, new: int) -> None:
    """Scales one schedule, in place."""

    def scaled(value: float) -> float:
        if scheduler.get('convert_to_iter_based'):
            return value * new / old
        return max(round(value * new / old), min(value, 1))

    length = scheduler.get('end', old) - scheduler.get('begin', 0)
    follows = scheduler.get('T_max') == length
    for entry in ('begin', 'end', 'T_max', 'step_size'):
        if scheduler.get(entry) is not None and scheduler[entry] < 1e9:
            scheduler[entry] = scaled(scheduler[entry])
    if follows:
        end = scheduler.get('end', new)
        scheduler['T_max'] = max(end - scheduler.get('begin', 0), 1)
    if 'milestones' in scheduler:
        # Each keeps an epoch of its own, from the last one back.
        kept: list[int] = []
        last = new if scheduler.get('by_epoch', True) else 10**9
        for milestone in reversed(scheduler['milestones']):
            last = min(round(milestone * new / old), last - 1)
            if last >= 1:
                kept.insert(0, last)
        scheduler['milestones'] = kept
