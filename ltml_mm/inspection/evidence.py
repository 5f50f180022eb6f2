"""Runs a network over a set and keeps what the pages tell about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from ltml_cli.run_parsers import DEFAULT_THRESHOLD
from ltml_mm.apis.config import training_dataset
from ltml_mm.apis.model import Network, scope_of
from ltml_mm.class_statistics import GROUPS
from ltml_mm.datasets.images import printable
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.decisions.scores import Scores, build_loader, collect_scores
from ltml_mm.decisions.thresholds import Thresholds
from ltml_mm.inspection.neighbours import Features


@dataclass(frozen=True)
class Evidence:
    """What a network says of a test set, and what it decides.

    Attributes:
        network: The network.
        dataset: The test set; its items are what the network sees.
        found: Scores, by branch too, and the true labels of N images.
        features: What the heads read of each image, and its hash.
        thresholds: Of each class, (K,).
    """

    network: Network
    dataset: Any
    found: Scores
    features: Features
    thresholds: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The decisions, bool (N, K)."""
        return self.found.scores >= self.thresholds

    def name(self, image: int) -> str:
        """Names an image by its folder and file."""
        return short_name(self.found.paths[image])


def gather(network: Network, chosen: Thresholds | None = None) -> Evidence:
    """Runs a network over its test set; without thresholds 0.5 decides.

    Raises:
        UnreadableImageError: An image cannot be read.
        ValueError: The config has no test set, an image has no labels, a
            score is NaN, or there is not one for each class.
    """
    test = network.cfg.get('test_dataloader') or {}
    if not test.get('dataset'):
        raise ValueError('the config has no test_dataloader with a dataset')
    loader = build_loader(network.cfg, test)
    store = Features(len(loader.dataset))
    with head_inputs(network.model) as seen:

        def watched() -> Iterator[Any]:
            for batch in loader:
                seen.clear()
                yield batch
                # Here the network has run on the batch.
                store.add(joined_features(seen), batch['inputs'])

        found = collect_scores(network.model, watched())
    classes = len(network.names)
    if found.scores.shape[1] != classes:
        raise ValueError(
            f'the model gives {found.scores.shape[1]} scores an image, but '
            f'{classes} class names are known'
        )
    values = np.full(classes, DEFAULT_THRESHOLD)
    values = values if chosen is None else chosen.values
    return Evidence(network, loader.dataset, found, store, values)


def observe(
    model: Any, cfg: Config, dataset: Any, indices: Sequence[int]
) -> Iterator[tuple[np.ndarray | None, list[torch.Tensor]]]:
    """Yields features and images of some of a set, batch by batch.

    The test loader of ``cfg`` gives the batch size and the workers.
    """
    test = cfg.test_dataloader
    loader = DataLoader(
        dataset,
        batch_size=test.get('batch_size', 32),
        sampler=indices,
        num_workers=test.get('num_workers', 0),
        collate_fn=pseudo_collate,
    )
    with head_inputs(model) as seen, torch.no_grad():
        for batch in loader:
            seen.clear()
            model.test_step(batch)
            yield joined_features(seen), batch['inputs']


@contextmanager
def head_inputs(model: Any) -> Iterator[list[Any]]:
    """Lists, while it is open, what the heads of a network are called with."""
    seen: list[Any] = []
    alone = {'': getattr(model, 'head', None)}
    handles = [
        head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for head in (getattr(model, 'heads', None) or alone).values()
        if isinstance(head, torch.nn.Module)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def joined_features(seen: Iterable[Any]) -> np.ndarray | None:
    """Joins what the heads read to unit vectors, float32 (N, C)."""
    parts = []
    for feats in seen:
        while isinstance(feats, (list, tuple)):
            feats = feats[-1]
        if feats.dim() > 2:
            feats = feats.mean((2, 3) if feats.dim() == 4 else 1)
        parts.append(normalize(feats.float(), dim=1))
    if not parts:
        return None
    return normalize(torch.cat(parts, 1), dim=1).cpu().numpy()


def build_training_set(cfg: Config) -> Any:
    """Builds the training set, its images as the test shows them.

    Raises:
        OSError: Its files are not there.
        ValueError: The config has none, such as that of a merged network.
    """
    if not (cfg.get('train_dataloader') or {}).get('dataset'):
        raise ValueError('the config has no train_dataloader with a dataset')
    pipeline = innermost_dataset(cfg.test_dataloader).pipeline
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        return training_dataset(cfg, pipeline)


def spread(size: int, most: int) -> list[int]:
    """Chooses at most so many of ``size`` indices, evenly spaced."""
    return np.linspace(0, size - 1, min(size, most)).astype(int).tolist()


def short_name(path: str | None) -> str:
    """Names an image by its folder and file, never by the whole path."""
    return printable('/'.join(PurePath(path or 'picture').parts[-2:]))


def class_groups(
    class_info: Sequence[Mapping[str, Any]],
) -> dict[str, list[int]]:
    """Lists the classes of ``all`` and of each group that has some."""
    groups = {'all': list(range(len(class_info)))}
    for name in GROUPS:
        members = [k for k, c in enumerate(class_info) if c['group'] == name]
        groups |= {name: members} if members else {}
    return groups
