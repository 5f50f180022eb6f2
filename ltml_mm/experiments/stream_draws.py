"""How often a sampler draws every class and every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from mmengine.dataset import DefaultSampler

from ltml_mm.datasets.annotations import LabelTable
from ltml_mm.datasets.samplers import (
    ClassAwareMultiLabelSampler,
    ImageStreamSampler,
    TwoStreamSampler,
    UniformSampler,
)


@dataclass(frozen=True)
class StreamDraws:
    """The draws of one stream in an epoch.

    Attributes:
        sampler: Class name of the sampler.
        seed: Its seed; None where it has none.
        length: Draws of one epoch, over all ranks.
        probabilities: Probability that a draw is image i, float64 (N,),
            summing to 1.
        exact: Whether ``probabilities`` are known in closed form; otherwise
            they are the shares of ``counted``.
        counted: How often image i is drawn in the first epoch, int64 (N,).
    """

    sampler: str
    seed: int | None
    length: int
    probabilities: np.ndarray
    exact: bool
    counted: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """Expected draws of every image in an epoch, float64 (N,)."""
        return self.probabilities * self.length

    @property
    def effective_sample_size(self) -> float:
        """Kish's (sum p)^2 / sum p^2: N where all images are alike."""
        return float(1 / np.square(self.probabilities).sum())

    def class_shares(self, table: LabelTable, num_classes: int) -> np.ndarray:
        """Returns the probability that a draw shows class k, float64 (K,).

        Images have several labels, so the shares sum to the expected number
        of labels of a draw, not to 1.

        Args:
            table: The labels of the N images.
            num_classes: K.
        """
        return _sum_by_class(self.probabilities, table, num_classes)

    def class_counted(self, table: LabelTable, num_classes: int) -> np.ndarray:
        """Returns the draws of the first epoch with class k, int64 (K,).

        Args:
            table: The labels of the N images.
            num_classes: K.
        """
        sums = _sum_by_class(self.counted, table, num_classes)
        return np.rint(sums).astype(np.int64)


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


def stream_draws(sampler: Any, table: LabelTable) -> dict[str, StreamDraws]:
    """Describes an epoch of every stream of a sampler.

    Args:
        sampler: A :class:`TwoStreamSampler`, or any sampler of image
            indices. The probabilities are in closed form for uniform,
            default and class-aware sampling, for others the shares of the
            first epoch.
        table: The labels of the dataset that the sampler draws from.

    Returns:
        dict: The draws by name of the stream; a sampler of one stream has
        the name of its class.

    Raises:
        ValueError: The sampler yields something else than image indices.
    """
    if isinstance(sampler, TwoStreamSampler):
        return {
            name: _describe(stream, sampler.epoch_length, table)
            for name, stream in sampler.streams.items()
        }
    if isinstance(sampler, ImageStreamSampler):
        length = sampler.epoch_length
    else:
        length = len(sampler)
    return {type(sampler).__name__: _describe(sampler, length, table)}


def _describe(sampler: Any, length: int, table: LabelTable) -> StreamDraws:
    if isinstance(sampler, ImageStreamSampler):
        order = sampler.order(0, length)
    else:
        order = _first_epoch(sampler, length, table.num_images)
    counted = np.bincount(order, minlength=table.num_images)
    exact = True
    if isinstance(sampler, ClassAwareMultiLabelSampler):
        probabilities = class_aware_probabilities(table)
    elif isinstance(sampler, (UniformSampler, DefaultSampler)):
        probabilities = np.full(table.num_images, 1 / table.num_images)
    else:
        exact, probabilities = False, counted / length
    seed = getattr(sampler, 'seed', None)
    name = type(sampler).__name__
    return StreamDraws(name, seed, length, probabilities, exact, counted)


def _first_epoch(sampler: Any, length: int, num_images: int) -> np.ndarray:
    # Some samplers never end: their length is that of a pass.
    draws = list(islice(iter(sampler), length))
    if not draws:
        raise ValueError(f'{type(sampler).__name__} draws nothing')
    for draw in draws:
        if isinstance(draw, Mapping) or not 0 <= int(draw) < num_images:
            raise ValueError(
                f'{type(sampler).__name__} drew {draw!r}, not the index of '
                f'one of the {num_images} images'
            )
    return np.asarray(draws, np.int64)


def _sum_by_class(
    values: np.ndarray, table: LabelTable, num_classes: int
) -> np.ndarray:
    weights = np.repeat(values, np.diff(table.offsets))
    return np.bincount(table.labels, weights, minlength=num_classes)
