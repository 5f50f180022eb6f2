"""Builds a model for inference, tells the classes it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, DefaultScope

from ltml_mm.apis.checkpoint import (
    are_names,
    checkpoint_meta,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.config import dataset_configs, load_config, scope_of
from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.datasets.images import first_line
from ltml_mm.decisions.thresholds import weights_digest
from ltml_mm.evaluation.grouped_average_precision import group_bounds


def pick_device(device: str | None = None) -> torch.device:
    """Returns a device, by default a GPU; ValueError where there is none."""
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f'no device {device!r} here ({first_line(error)})'
        ) from error
    return target


@dataclass(frozen=True)
class Network:
    """A trained network, and what is known of it.

    Attributes:
        cfg: Its complete config.
        model: The network on its device, in evaluation mode.
        meta: The training set's ``metainfo``, None where none is held.
        class_info: ``name``, ``group`` and ``train_images`` of each class,
            in the order of the scores; the latter two may be None.
        digest: The fingerprint of the weights.
        path: The checkpoint.
    """

    cfg: Config
    model: BaseModel
    meta: Mapping[str, Any] | None
    class_info: list[dict[str, Any]]
    digest: str
    path: Path

    @property
    def names(self) -> list[str]:
        """The K class names."""
        return [info['name'] for info in self.class_info]


def build_model(cfg: Config) -> BaseModel:
    """Builds a config's model with random weights; downloads nothing."""
    model = without_pretrained(cfg.model.to_dict())
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        return MODELS.build(model)


def load_network(
    config: str | Path,
    checkpoint: str | Path,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Network:
    """Loads a two-branch, merged or stock multi-label classifier.

    Raises:
        CheckpointError: The checkpoint cannot be read or does not fit.
        FileNotFoundError: The config does not exist.
        ValueError: The device does not exist, or no class names are known.
    """
    target = pick_device(device)
    content = read_checkpoint(checkpoint)
    meta = checkpoint_meta(content, checkpoint)
    cfg = load_config(config, cfg_options, meta)
    model = build_model(cfg)
    load_weights(model, content['state_dict'], checkpoint)
    digest = weights_digest(content['state_dict'])
    infos = class_info(cfg, meta)
    model = model.to(target).eval()
    return Network(cfg, model, meta, infos, digest, Path(checkpoint))


def without_pretrained(node: Any) -> Any:
    """Copies a config, or a part, without what names weights to start from."""
    if isinstance(node, Mapping):
        return {
            key: without_pretrained(value)
            for key, value in node.items()
            if key not in ('init_cfg', 'pretrained')
        }
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(value) for value in node)
    return node


def class_info(
    cfg: Config, meta: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Describes the classes, by ``meta`` of a checkpoint or by the config.

    The test evaluator of the config bounds the groups.

    Raises:
        ValueError: No source names the classes.
    """
    sources = [dict(meta or {})]
    for dataset in dataset_configs(cfg):
        own = getattr(DATASETS.get(dataset['type']), 'METAINFO', {})
        sources.append({**own, **dataset.get('metainfo', {})})
    named = [source for source in sources if source.get('classes')]
    if not named:
        raise ValueError(
            'neither the checkpoint nor the config names the classes; add '
            'metainfo=dict(classes=[...]) to test_dataloader.dataset'
        )
    names = list(named[0]['classes'])
    if not are_names(names):
        raise ValueError(f'the classes are not distinct names: {names}')
    groups: Sequence[Any] = [None] * len(names)
    counts: Sequence[Any] = groups
    for source in reversed(named):
        counted = source.get(COUNTS_KEY) is not None
        if counted and list(source['classes']) == names:
            statistics = ClassStatistics.from_metainfo(source)
            groups = statistics.group_of(**group_bounds(cfg))
            counts = statistics.counts
    return [
        {'name': name, 'group': group, 'train_images': count}
        for name, group, count in zip(names, groups, counts, strict=True)
    ]


def check_selection(
    threshold: float | None, topk: int | None, num_classes: int
) -> None:
    """Refuses a choice of predicted classes that is out of range."""
    if threshold is not None and topk is not None:
        raise ValueError('give threshold or topk, not both')
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f'threshold must be in [0, 1], got {threshold}')
    if topk is not None and not 1 <= topk <= num_classes:
        raise ValueError(
            f'topk must be from 1 to {num_classes}, the number of classes, '
            f'got {topk}'
        )
