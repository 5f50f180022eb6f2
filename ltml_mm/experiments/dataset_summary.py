"""Labels of a training set and draws of its samplers; no image is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope

from ltml_mm.apis.config import load_config
from ltml_mm.class_statistics import (
    COUNTS_KEY,
    HEAD_COUNT,
    TAIL_COUNT,
    ClassStatistics,
)
from ltml_mm.datasets.annotations import (
    LabelTable,
    read_labels,
    training_metainfo,
)
from ltml_mm.datasets.samplers import (
    ClassAwareMultiLabelSampler,
    ImageStreamSampler,
    TwoStreamSampler,
    UniformSampler,
)
from ltml_mm.evaluation.grouped_average_precision import group_bounds


@dataclass(frozen=True)
class StreamDraws:
    """The draws of one stream in an epoch.

    Attributes:
        sampler: Class name of the sampler.
        length: Draws of one epoch, over all ranks.
        probabilities: Probability that a draw is image i, float64 (N,),
            summing to 1.
        exact: Whether ``probabilities`` are known in closed form; otherwise
            they are the shares of ``counted``.
        counted: How often image i is drawn in the first epoch, int64 (N,).
    """

    sampler: str
    length: int
    probabilities: np.ndarray
    exact: bool
    counted: np.ndarray


@dataclass(frozen=True)
class DatasetSummary:
    """The labels of a dataset and the draws of its samplers.

    Attributes:
        source: Name of the config or annotation file, for titles.
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

    def sum_by_class(self, values: np.ndarray) -> np.ndarray:
        """Sums values of images over the images of every class.

        An image counts for each of its classes: the sums of probabilities
        add up to the expected number of labels of a draw, not to 1.

        Args:
            values: One value per image, (N,).

        Returns:
            np.ndarray: float64 of shape (K,).
        """
        weights = np.repeat(values, np.diff(self.table.offsets))
        return np.bincount(
            self.table.labels, weights, minlength=len(self.names)
        )


def read_summary(
    path: str | Path, cfg_options: Mapping[str, Any] | None = None
) -> DatasetSummary:
    """Reads the training set of a config, or an annotation file.

    Args:
        path: A config, or a JSON file in MMPretrain's multi-label format,
            which is drawn from as the configs of the package do.
        cfg_options: Overrides of the config.

    Returns:
        DatasetSummary: The labels and the draws.

    Raises:
        FileNotFoundError: The file, or one that it names, does not exist.
        ValueError: The config or the annotation file is broken, or no image
            has a label.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'config or annotation file not found: {path}')
    # 'data/voc_lt/train.json' says more in a title than 'train.json'.
    source = '/'.join(path.resolve().parts[-2:])
    is_config = path.suffix != '.json'
    if cfg_options and not is_config:
        raise ValueError(
            f'{path}: --cfg-options overrides a config, not an annotation file'
        )
    cfg = load_config(path, cfg_options) if is_config else _config_of(path)
    return _summarise(source, cfg)


def class_aware_probabilities(table: LabelTable) -> np.ndarray:
    """Returns the probability of every image in a class-aware draw.

    A class is drawn uniformly from the K' that have an image, then one of
    its n_k images: p_i = 1 / K' * sum over the labels k of i of 1 / n_k.

    Args:
        table: The labels of the N images; at least one has a label.

    Returns:
        np.ndarray: float64 of shape (N,); an image without a label has 0.
    """
    counts = table.counts(0)
    weights = 1 / counts[table.labels] / np.count_nonzero(counts)
    images = np.repeat(np.arange(table.num_images), np.diff(table.offsets))
    return np.bincount(images, weights, minlength=table.num_images)


def _config_of(annotations: Path) -> Config:
    # As a test set: a file's counts may be those of another training set,
    # which make the groups. No image is opened, wherever it is.
    dataset = {
        'type': 'LongTailMultiLabelDataset',
        'ann_file': str(annotations),
        'test_mode': True,
        'allow_outside': True,
    }
    sampler = {
        'type': 'TwoStreamSampler',
        'streams': {
            'uniform': {'type': 'UniformSampler'},
            'class-aware': {'type': 'ClassAwareMultiLabelSampler'},
        },
        'epoch_length': 'class-aware',
    }
    return Config(
        {'train_dataloader': {'dataset': dataset, 'sampler': sampler}}
    )


def _summarise(source: str, cfg: Config) -> DatasetSummary:
    loader = cfg.get('train_dataloader') or {}
    if 'dataset' not in loader or 'sampler' not in loader:
        raise ValueError(
            f'{source}: the config has no train_dataloader with a dataset '
            'and a sampler'
        )
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    dataset = DATASETS.build(loader['dataset'])
    dataset.full_init()
    table = read_labels(dataset)
    known = len(table.counts(0))
    classes = dataset.metainfo.get('classes') or range(known)
    if not 0 < known <= len(classes):
        raise ValueError(
            f'{source}: its {table.num_images} images have labels of {known} '
            f'classes, and it names {len(classes)}'
        )
    names = [str(name) for name in classes]
    metainfo = training_metainfo(dataset)
    if metainfo.get(COUNTS_KEY) is None:
        statistics = table.statistics(len(names))
    else:
        statistics = ClassStatistics.from_metainfo(metainfo)
    seed = cfg.get('randomness', {}).get('seed') or 0
    sampler: Any = DATA_SAMPLERS.build(
        loader['sampler'], default_args={'dataset': dataset, 'seed': seed}
    )
    # A sampler of one stream goes by the name of its class.
    streams = {type(sampler).__name__: sampler}
    if isinstance(sampler, TwoStreamSampler):
        streams = sampler.streams
    length = getattr(sampler, 'epoch_length', None) or len(sampler)
    return DatasetSummary(
        source,
        dataset,
        names,
        table,
        statistics,
        **{'head': HEAD_COUNT, 'tail': TAIL_COUNT, **group_bounds(cfg)},
        draws={k: _describe(s, length, table) for k, s in streams.items()},
    )


def _describe(sampler: Any, length: int, table: LabelTable) -> StreamDraws:
    name, size = type(sampler).__name__, table.num_images
    if isinstance(sampler, ImageStreamSampler):
        order = sampler.order(0, length)
    else:
        # Some samplers never end: their length is that of a pass.
        order = np.asarray(list(islice(iter(sampler), length)))
    if order.dtype.kind != 'i' or order.min() < 0 or order.max() >= size:
        raise ValueError(
            f'{name} must draw indices of the {size} images, its first draws '
            f'are {order[:3].tolist()}'
        )
    counted = np.bincount(order, minlength=size)
    exact = True
    if isinstance(sampler, ClassAwareMultiLabelSampler):
        probabilities = class_aware_probabilities(table)
    elif isinstance(sampler, (UniformSampler, DefaultSampler)):
        probabilities = np.full(size, 1 / size)
    else:
        exact, probabilities = False, counted / length
    return StreamDraws(name, length, probabilities, exact, counted)
