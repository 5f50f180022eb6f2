"""Scores and labels of a set of images, from any multi-label classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ltml_mm.apis.model import scope_of
from ltml_mm.datasets.annotations import check_class_names
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.evaluation.grouped_average_precision import (
    BRANCHES_KEY,
    sample_scores,
    sample_targets,
)


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


def build_loader(cfg: Config, loader: Mapping[str, Any]) -> Any:
    """Builds a DataLoader from its config, in order and without a rest."""
    loader = dict(loader, drop_last=False, persistent_workers=False)
    loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    loader.setdefault('collate_fn', dict(type='default_collate'))
    loader['pin_memory'] = False
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        built = Runner.build_dataloader(loader, seed=0)
    for part in innermost_datasets(built):
        check_class_names(part)
    return built


def collect_scores(model: BaseModel, loader: Iterable[Any]) -> Scores:
    """Scores every image of a loader by a network in evaluation mode.

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
