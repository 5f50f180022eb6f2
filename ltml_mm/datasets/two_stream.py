"""Resolves the draws of a sampler into reproducible samples."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.registry import DATASETS
from torch.utils.data import Dataset, get_worker_info

from ltml_mm.class_statistics import COUNTS_KEY, IMAGES_KEY
from ltml_mm.datasets.annotations import (
    LabelTable,
    has_labels,
    labels_of,
    read_labels,
    training_metainfo,
)
from ltml_mm.datasets.samplers.two_stream_sampler import DRAW


@ROOT_DATASETS.register_module()
class TwoStreamDataset:
    """Turns a draw of :class:`TwoStreamSampler` into a training sample.

    The pair ``{'uniform': i, 'rebalanced': j, 'draw': number}`` becomes

    .. code-block:: none

        {'inputs': {'uniform': image, 'rebalanced': image},
         'data_samples': {'uniform': sample, 'rebalanced': sample}}

    which the stock collate functions batch stream by stream. A draw of one
    stream becomes that stream's sample itself, and a plain int the sample
    of the wrapped dataset, unchanged.

    The pipeline of a draw runs under random states that are a function of
    the sampler's seed, the epoch, the position and the stream alone: stock
    transforms draw from the global generators. Outside of data workers it
    gives the callers' states back. So no run depends on its workers.

    Args:
        dataset (dict | Dataset): The dataset, or its config: any of
            MMPretrain's multi-label datasets, or a wrapper of them, such
            as ``KFoldDataset``, ``ConcatDataset`` or ``RepeatDataset``. In
            a config, the counts of concatenated sets may differ.
        lazy_init (bool): Whether to read no annotations yet.

    Raises:
        TypeError: ``dataset`` cannot name the classes of an image.
    """

    def __init__(
        self, dataset: dict | Dataset, lazy_init: bool = False
    ) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(allow_other_counts(dataset))
        if not has_labels(dataset):
            raise TypeError(
                'dataset must be a config or a multi-label dataset with '
                f'get_cat_ids(index), got {type(dataset).__name__}'
            )
        self.dataset: Any = dataset
        #: The labels of all images, None before they are read.
        self.label_table: LabelTable | None = None
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """The wrapped dataset's meta information, with its own counts."""
        if self.label_table is None:
            return self.dataset.metainfo
        return training_metainfo(self.dataset, self.label_table)

    @property
    def CLASSES(self) -> Any:  # noqa: N802
        """The class names of the wrapped dataset."""
        return self.metainfo.get('classes')

    @property
    def pipeline(self) -> Any:
        """The pipeline of the wrapped dataset, the first of several.

        MMPretrain's ``browse_dataset.py`` puts one that shows its steps here.
        """
        return innermost_dataset(self.dataset).pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        for dataset in innermost_datasets(self.dataset):
            dataset.pipeline = pipeline

    def full_init(self) -> None:
        """Reads the annotations of the wrapped dataset."""
        self.dataset.full_init()
        self.label_table = read_labels(self.dataset)

    def get_cat_ids(self, index: int) -> list[int]:
        """Returns the classes of an image."""
        return labels_of(self.dataset, index)

    def get_data_info(self, index: int) -> dict:
        """Returns the annotation of an image."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.dataset)

    def __getitem__(self, draw: int | Mapping[str, Any]) -> dict:
        """Runs the pipeline on the images of a draw, as the class says."""
        if not isinstance(draw, Mapping):
            return self.dataset[draw]
        samples = {}
        # Numpy's takes longer than a crop; in a worker nobody else draws.
        in_worker = get_worker_info() is not None
        with nullcontext() if in_worker else kept_random_states():
            for name in [name for name in draw if name != DRAW]:
                # Each stream from states of its own: a stream is augmented
                # alike with and without the other.
                seed_generators(draw[DRAW], name)
                samples[name] = self.dataset[draw[name]]
        first = next(iter(samples.values()))
        # A stock classifier knows no streams.
        if len(samples) == 1:
            return first
        return {
            key: {name: sample[key] for name, sample in samples.items()}
            for key in first
        }

    def __repr__(self) -> str:
        """Shows the wrapped dataset."""
        return f'{type(self).__name__} of {self.dataset!r}'


def allow_other_counts(config: Any) -> Any:
    """Copies a config whose ConcatDatasets take sets of unequal counts."""
    if isinstance(config, (list, tuple)):
        return [allow_other_counts(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    config = {
        key: allow_other_counts(value) if key.startswith('dataset') else value
        for key, value in config.items()
    }
    if config.get('type') == 'ConcatDataset':
        own = config.get('ignore_keys') or []
        own = [*([own] if isinstance(own, str) else own), 'task_name']
        config['ignore_keys'] = sorted({*own, COUNTS_KEY, IMAGES_KEY})
    return config


def innermost_datasets(holder: Any) -> list[Any]:
    """Finds the datasets within a dataloader, wrappers or their configs.

    Returns:
        list: The datasets that wrap no other, or their configs; no copies.
    """
    for key in ('dataset', 'datasets'):
        if isinstance(holder, Mapping):
            inner = holder.get(key)
        else:
            inner = getattr(holder, key, None)
        if inner is not None:
            parts = inner if isinstance(inner, (list, tuple)) else [inner]
            return [
                leaf for part in parts for leaf in innermost_datasets(part)
            ]
    return [holder]


def innermost_dataset(holder: Any) -> Any:
    """Returns the first of :func:`innermost_datasets`."""
    return innermost_datasets(holder)[0]


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Restores the states of the global generators at its end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_generators(number: tuple[int, ...], stream: str) -> None:
    """Seeds the global generators by a stream and a draw of it.

    The draw's ``number`` is its seed, epoch and position.
    """
    sequence = np.random.SeedSequence((*number, zlib.crc32(stream.encode())))
    words = sequence.generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # The default generator alone: torch.manual_seed would touch every GPU.
    torch.default_generator.manual_seed(int(words[2]))
