"""Gathers what is to be known of a training set, without an image read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope
from mmpretrain.datasets import BaseDataset, MultiLabelDataset

from ltml_mm.apis.config import load_config
from ltml_mm.class_statistics import (
    COUNTS_KEY,
    HEAD_COUNT,
    TAIL_COUNT,
    ClassStatistics,
)
from ltml_mm.datasets.annotations import LabelTable, read_labels
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset
from ltml_mm.datasets.splits import cooccurrence
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.evaluation.grouped_average_precision import group_bounds
from ltml_mm.experiments.stream_draws import StreamDraws, stream_draws

# What the configs of the package draw with; an annotation file has no own.
DEFAULT_SAMPLER = {
    'type': 'TwoStreamSampler',
    'streams': {
        'uniform': {'type': 'UniformSampler'},
        'class-aware': {'type': 'ClassAwareMultiLabelSampler'},
    },
    'epoch_length': 'class-aware',
}


@dataclass(frozen=True)
class DatasetFacts:
    """The labels of a dataset and the draws of its samplers.

    Attributes:
        source: What the report is about, for titles.
        dataset: The dataset, its annotations read.
        names: The K class names.
        table: The labels of the N images.
        statistics: Training counts, which make the groups.
        head: Least training count of a head class.
        tail: Training count below which a class is a tail class.
        draws: The draws by name of the stream.
    """

    source: str
    dataset: Any
    names: list[str]
    table: LabelTable
    statistics: ClassStatistics
    head: int
    tail: int
    draws: dict[str, StreamDraws]

    @property
    def about(self) -> str:
        """One line for pictures: the source and its size."""
        return (
            f'{self.source}: {self.table.num_images:,} images, '
            f'{len(self.names)} classes'
        )

    @property
    def counts(self) -> np.ndarray:
        """Images of every class in this dataset, int64 (K,)."""
        return self.table.counts(len(self.names))

    @property
    def groups(self) -> list[str]:
        """``head``, ``medium`` or ``tail`` for each of the K classes."""
        return self.statistics.group_of(self.head, self.tail)

    @property
    def labels_per_image(self) -> np.ndarray:
        """Number of labels of every image, int64 (N,)."""
        return np.diff(self.table.offsets)

    def cooccurrence(self) -> np.ndarray:
        """Images that show both classes, int64 (K, K), symmetric."""
        return cooccurrence(self.table.matrix(len(self.names)))


def read_facts(
    path: str | Path, cfg_options: Mapping[str, Any] | None = None
) -> DatasetFacts:
    """Reads the training set of a config, or an annotation file.

    Args:
        path: A config, or a JSON file in MMPretrain's multi-label format,
            which is drawn from as the configs of the package do.
        cfg_options: Overrides of the config.

    Returns:
        DatasetFacts: The labels and the draws.

    Raises:
        FileNotFoundError: The file, or one that it names, does not exist.
        ValueError: The config or the annotation file is broken, or the
            dataset is not a multi-label dataset.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'config or annotation file not found: {path}')
    # 'data/voc_lt/train.json' says more in a title than 'train.json'.
    source = '/'.join(path.resolve().parts[-2:])
    if path.suffix == '.json':
        if cfg_options:
            raise ValueError(
                f'{path}: --cfg-options overrides a config, not an '
                'annotation file'
            )
        # As a test set: a file's counts may be those of another training
        # set, which make the groups. No image is opened, wherever it is.
        dataset = LongTailMultiLabelDataset(
            str(path), test_mode=True, allow_outside=True
        )
        return _gather(source, dataset, DEFAULT_SAMPLER, 0, {})
    try:
        cfg = load_config(path, cfg_options)
        return _from_config(source, cfg)
    except (OSError, ValueError):
        raise
    except Exception as error:
        # A config is a program, and MMEngine passes on whatever goes wrong.
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(
            f'{path}: cannot build the training data of this config ({reason})'
        ) from error


def _from_config(source: str, cfg: Config) -> DatasetFacts:
    loader = cfg.get('train_dataloader')
    if not loader or 'dataset' not in loader or 'sampler' not in loader:
        raise ValueError(
            f'{source}: the config has no train_dataloader with a dataset '
            'and a sampler'
        )
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    dataset = DATASETS.build(_without_pipeline(loader['dataset']))
    dataset.full_init()
    seed = cfg.get('randomness', {}).get('seed')
    return _gather(
        source,
        dataset,
        loader['sampler'],
        0 if seed is None else seed,
        group_bounds(cfg),
    )


def _gather(
    source: str,
    dataset: Any,
    sampler: Mapping[str, Any],
    seed: int,
    groups: Mapping[str, int],
) -> DatasetFacts:
    innermost = innermost_dataset(dataset)
    if isinstance(innermost, BaseDataset) and not isinstance(
        innermost, MultiLabelDataset
    ):
        raise ValueError(
            f'{source}: {type(innermost).__name__} is not a multi-label '
            'dataset'
        )
    table = read_labels(dataset)
    metainfo = dataset.metainfo
    known = len(table.counts(0))
    names = [str(name) for name in metainfo.get('classes') or range(known)]
    if not len(table.labels) or len(names) < known:
        raise ValueError(
            f'{source}: its {table.num_images} images have '
            + (f'labels up to {known - 1}' if known else 'no label')
            + f' for {len(names)} classes'
        )
    if metainfo.get(COUNTS_KEY) is None:
        counts = table.counts(len(names)).tolist()
        statistics = ClassStatistics(tuple(counts), table.num_images)
    else:
        statistics = ClassStatistics.from_metainfo(metainfo)
    built = DATA_SAMPLERS.build(
        copy.deepcopy(dict(sampler)),
        default_args={'dataset': dataset, 'seed': seed},
    )
    return DatasetFacts(
        source,
        dataset,
        names,
        table,
        statistics,
        groups.get('head', HEAD_COUNT),
        groups.get('tail', TAIL_COUNT),
        stream_draws(built, table),
    )


def _without_pipeline(node: Any) -> Any:
    """Copies a dataset's config, wrappers too, without its transforms."""
    if isinstance(node, Mapping):
        return {
            key: [] if key == 'pipeline' else _without_pipeline(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_without_pipeline(value) for value in node]
    return copy.deepcopy(node)
