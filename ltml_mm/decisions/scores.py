"""Scores and labels of a set of images, from any multi-label classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ltml_mm.apis.checkpoint import (
    checkpoint_meta,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import build_model, class_info, pick_device, scope_of
from ltml_mm.decisions.thresholds import weights_digest
from ltml_mm.evaluation.grouped_average_precision import (
    BRANCHES_KEY,
    sample_scores,
    sample_targets,
)


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


@dataclass(frozen=True)
class Scores:
    """What a network says of N images, and what is true.

    Attributes:
        scores: float32 (N, K), from 0 to 1.
        targets: bool (N, K).
        paths: The path of each image, None for one in memory.
        branches: The scores of each branch by name, where there are any.
    """

    scores: np.ndarray
    targets: np.ndarray
    paths: list[str | None]
    branches: dict[str, np.ndarray]


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


def build_loader(cfg: Config, loader: Mapping[str, Any]) -> Any:
    """Builds a DataLoader from its config, in order and without a rest."""
    loader = dict(loader, drop_last=False, persistent_workers=False)
    loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    loader.setdefault('collate_fn', dict(type='default_collate'))
    loader['pin_memory'] = False
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        return Runner.build_dataloader(loader, seed=0)


def collect_scores(model: BaseModel, loader: Iterable[Any]) -> Scores:
    """Scores every image of a loader.

    Args:
        model: A network in evaluation mode whose ``test_step`` gives data
            samples with ``pred_score`` and the labels.
        loader: Batches, as a test sees them.

    Raises:
        ValueError: There is no image, one lacks its labels, or a score is
            NaN; names the image.
    """
    kept: dict[str, list[np.ndarray]] = {}
    targets, paths = [], []
    for batch in loader:
        with torch.no_grad():
            samples = model.test_step(batch)
        for sample in samples:
            record = sample.to_dict()
            given = {'': record['pred_score']}
            given.update(record.get(BRANCHES_KEY) or {})
            for name, value in given.items():
                kept.setdefault(name, []).append(sample_scores(value, record))
            targets.append(sample_targets(record, kept[''][-1].size))
            paths.append(record.get('img_path'))
    if not targets:
        raise ValueError('the set holds no image to score')
    arrays = {name: np.stack(rows) for name, rows in kept.items()}
    scores = arrays.pop('')
    return Scores(scores, np.stack(targets).astype(bool), paths, arrays)
