"""Builds a model for inference and names what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, DefaultScope

from ltml_mm.apis.checkpoint import CheckpointError
from ltml_mm.apis.config import dataset_configs
from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.engine.hooks.resume_check_hook import compare_state_dicts
from ltml_mm.evaluation.grouped_average_precision import group_bounds


def pick_device(device: str | None = None) -> torch.device:
    """Returns a device that exists.

    Args:
        device: As PyTorch names it; by default a GPU where there is one.

    Returns:
        torch.device: The device.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split('\n')[0]
        raise ValueError(f'no device {device!r} here ({reason})') from error
    return target


def scope_of(cfg: Config) -> str:
    """Returns the registry scope of a config's names, MMPretrain's if none."""
    return cfg.get('default_scope') or 'mmpretrain'


def build_model(cfg: Config) -> BaseModel:
    """Builds the model of a config without the weights it would start from.

    Args:
        cfg: A complete config.

    Returns:
        BaseModel: The model with random weights; nothing is downloaded.
    """
    model = without_pretrained(cfg.model.to_dict())
    if cfg.get('data_preprocessor') is not None:
        preprocessor = cfg.data_preprocessor.to_dict()
        model.setdefault('data_preprocessor', preprocessor)
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        return MODELS.build(model)


def without_pretrained(node: Any) -> Any:
    """Copies a config without what names weights to start from.

    Args:
        node: A config, or any part of it.

    Returns:
        Any: The copy.
    """
    if isinstance(node, Mapping):
        return {
            key: without_pretrained(value)
            for key, value in node.items()
            if key not in ('init_cfg', 'pretrained')
        }
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(value) for value in node)
    return node


def load_weights(
    model: torch.nn.Module, state_dict: Any, path: str | Path
) -> None:
    """Loads all weights of a model, or none.

    Args:
        model: The model.
        state_dict: What the checkpoint holds under this name.
        path: The checkpoint, for the message.

    Raises:
        CheckpointError: A weight is missing, unexpected or of another
            shape; names the first of them.
    """
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(key, str) for key in state_dict
    ):
        raise CheckpointError(f'{path}: "state_dict" names no weights')
    own = model.state_dict()
    # Tables that the model computes anew drop out of whatever is loaded.
    recomputed = model.load_state_dict(own, strict=False).missing_keys
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
        fits = not unexpected and set(missing) <= set(recomputed)
    except RuntimeError:
        fits = False
    if not fits:
        expected = {k: v for k, v in own.items() if k not in recomputed}
        found = {k: v for k, v in state_dict.items() if k not in recomputed}
        problems = compare_state_dicts(expected, found)
        more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
        raise CheckpointError(
            f'{path} is not a checkpoint of this config: '
            f'{"; ".join(problems[:4])}{more}'
        )


def checkpoint_meta(
    checkpoint: Mapping[str, Any], path: str | Path
) -> dict[str, Any] | None:
    """Reads what a checkpoint knows of its training set.

    Args:
        checkpoint: The checkpoint.
        path: Its path, for the message.

    Returns:
        dict | None: The training set's ``metainfo``, None where the
        checkpoint names no classes.

    Raises:
        CheckpointError: The class names are no list of distinct names.
    """
    meta = checkpoint.get('meta')
    found = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping) or found.get('classes') is None:
        return None
    if not _are_names(found['classes']):
        raise CheckpointError(
            f'{path}: its classes are not a list of distinct names'
        )
    return dict(found)


def class_info(
    cfg: Config, meta: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Describes the classes, from the checkpoint, else from the config.

    Args:
        cfg: A complete config.
        meta: What :func:`checkpoint_meta` returned.

    Returns:
        list[dict]: ``name``, ``group`` and ``train_images`` of each class; the
        groups have the bounds of the test evaluator.

    Raises:
        ValueError: No source names the classes.
    """
    sources = [meta or {}, *map(_config_meta, dataset_configs(cfg))]
    named = [source for source in sources if source.get('classes')]
    if not named:
        raise ValueError(
            'neither the checkpoint nor the config names the classes; add '
            'metainfo=dict(classes=[...]) to test_dataloader.dataset'
        )
    names = list(named[0]['classes'])
    if not _are_names(names):
        raise ValueError(f'the classes are not distinct names: {names}')
    for source in named:
        counted = source.get(COUNTS_KEY) is not None
        if counted and list(source['classes']) == names:
            statistics = ClassStatistics.from_metainfo(source)
            groups = statistics.group_of(**group_bounds(cfg))
            return [
                {'name': name, 'group': group, 'train_images': count}
                for name, group, count in zip(
                    names, groups, statistics.counts, strict=True
                )
            ]
    return [{'name': n, 'group': None, 'train_images': None} for n in names]


def _config_meta(dataset: Mapping[str, Any]) -> dict[str, Any]:
    own = getattr(DATASETS.get(dataset['type']), 'METAINFO', {})
    return {**own, **dataset.get('metainfo', {})}


def _are_names(classes: Any) -> bool:
    return (
        isinstance(classes, (list, tuple))
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes)
    )
