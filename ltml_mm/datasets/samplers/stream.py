"""Samplers whose order is a pure function of seed and epoch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ltml_mm.datasets.annotations import read_labels


class StreamSampler(Sampler):
    """A sampler over one global sequence, shared out over the ranks.

    Rank r of W takes the positions r, r + W, ... of the sequence, so the
    ranks together draw what one process would. Where W does not divide the
    sequence, its beginning is repeated to give every rank the same length
    (the round-up of MMEngine's ``DefaultSampler``).

    Args:
        dataset (Sized): The dataset to draw from.
        seed (int, optional): Seed of the order, the same on all ranks. None
            takes one that the ranks agree on. Defaults to None.

    Raises:
        ValueError: ``seed`` is negative or not an int.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        if seed is not None and (not isinstance(seed, int) or seed < 0):
            raise ValueError(f'seed must be an int from 0 on, got {seed!r}')
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        #: Positions of one epoch, over all ranks; subclasses set it.
        self.epoch_length = 0
        #: Positions that one pass of this rank consumes: whole batches, so
        #: fewer than ``len(self)`` with ``drop_last``, more without; None is
        #: ``len(self)``. ``ExactResumeHook`` sets it, :meth:`skip` reads it.
        self.pass_length: int | None = None
        self._first_epoch = 0
        self._start = 0

    @abstractmethod
    def sequence(self, epoch: int) -> np.ndarray:
        """Returns the global sequence of an epoch, (epoch_length, ...)."""

    def own_positions(self) -> np.ndarray:
        """Returns where this rank's draws stand in the global sequence.

        They begin where :meth:`start_at` or :meth:`skip` said, for one pass.
        """
        start, self._start = self._start, 0
        own = self.rank + np.arange(start, len(self)) * self.world_size
        return own % self.epoch_length

    def __iter__(self) -> Iterator:
        """Iterates over this rank's part of the epoch's sequence."""
        yield from self.sequence(self.epoch)[self.own_positions()].tolist()

    def __len__(self) -> int:
        """The number of positions of this rank, the same on all ranks."""
        return math.ceil(self.epoch_length / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration runs through."""
        self.epoch = self._first_epoch + epoch

    def set_seed(self, seed: int) -> None:
        """Replaces the seed of the order, as a resumed run needs it."""
        self.seed = seed

    def start_at(self, position: int) -> None:
        """Lets the next iteration leave out that many of its positions.

        Raises:
            ValueError: The number is negative.
        """
        if position < 0:
            raise ValueError(f'position must not be negative, got {position}')
        self._start = position

    def skip(self, num_samples: int) -> None:
        """Lets the next iteration begin that many positions later.

        Args:
            num_samples (int): Positions of this rank that were trained since
                the first epoch's start (the contract of OneDL's
                ``InfiniteSampler.skip``). Whole passes among them, of
                ``pass_length``, advance the epoch, from which
                :meth:`set_epoch` counts.

        Raises:
            ValueError: The number is negative.
        """
        if num_samples < 0:
            raise ValueError(
                f'num_samples must not be negative, got {num_samples}'
            )
        length = self.pass_length or len(self)
        # A loop that resumes counts its epochs from 0 again.
        self._first_epoch, self._start = divmod(num_samples, length)
        self.epoch = self._first_epoch


class ImageStreamSampler(StreamSampler):
    """A stream that yields one image index per position.

    Args:
        dataset (Sized): The dataset to draw from, with ``get_cat_ids``.
        num_samples (int | str): Draws per epoch over all ranks. An int;
            ``'dataset'``, the number of images; or ``'class_max'``, the
            count of the largest class times the number of classes that have
            an image, over ``reduce``.
        reduce (int): The divisor of ``'class_max'``. Defaults to 4, as in
            the reference protocol of VOC-LT and COCO-LT: 3875, 22560 draws.
        seed (int, optional): See :class:`StreamSampler`.

    Raises:
        ValueError: ``num_samples`` or ``reduce`` is none of these, or the
            dataset has no image that could be drawn.
    """

    def __init__(
        self,
        dataset: Sized,
        num_samples: int | str = 'class_max',
        reduce: int = 4,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, seed)
        if not len(dataset):
            raise ValueError(
                f'{type(self).__name__}: the dataset has no image to draw'
            )
        self.labels = read_labels(dataset)
        # After the labels: the length may follow from their counts.
        self.epoch_length = self._resolve_length(num_samples, reduce)

    def sequence(self, epoch: int) -> np.ndarray:
        """Returns the image indices of an epoch, int64 (epoch_length,)."""
        return self.order(epoch, self.epoch_length)

    @abstractmethod
    def order(self, epoch: int, length: int) -> np.ndarray:
        """Returns the image indices of an epoch, int64 (length,).

        A pure function of seed, epoch and length.
        """

    def _generator(self, epoch: int) -> np.random.Generator:
        # Not seed + epoch: one seed would repeat the epochs of the next.
        return np.random.Generator(np.random.PCG64((self.seed, epoch)))

    def _resolve_length(self, value: int | str, reduce: int) -> int:
        if not isinstance(reduce, int) or reduce < 1:
            raise ValueError(f'reduce must be a positive int, got {reduce!r}')
        if isinstance(value, int) and not isinstance(value, bool):
            length = value
        elif value == 'dataset':
            length = self.labels.num_images
        elif value == 'class_max':
            counts = self.positive_counts()
            # A class without an image is never drawn and adds nothing.
            length = int(counts.max() * np.count_nonzero(counts)) // reduce
        else:
            raise ValueError(
                "num_samples must be an int, 'dataset' or 'class_max', got "
                f'{value!r}'
            )
        if length < 1:
            raise ValueError(
                f'num_samples={value!r} gives an epoch of {length} draws; '
                'set train_dataloader.sampler.streams.*.num_samples (of a '
                'sampler alone train_dataloader.sampler.num_samples) to a '
                "number from 1 on or to 'dataset'"
            )
        return length

    def positive_counts(self) -> np.ndarray:
        """Counts the images of every class, up to the last that has one.

        Raises:
            ValueError: No image has a label.
        """
        counts = self.labels.counts(0)
        if not counts.any():
            raise ValueError(
                f'{type(self).__name__}: no image of the training set has a '
                'label; look at its annotation file'
            )
        return counts


@DATA_SAMPLERS.register_module()
class UniformSampler(ImageStreamSampler):
    """Draws images uniformly, without repeats within a pass.

    The sequence of an epoch is whole permutations of the images after one
    another, cut at the epoch's end (the uniform stream of LTML). The
    arguments are those of :class:`ImageStreamSampler`.
    """

    def order(self, epoch: int, length: int) -> np.ndarray:
        """Returns the image indices of an epoch, int64 (length,)."""
        rng = self._generator(epoch)
        num_images = len(self.dataset)
        passes = -(-length // num_images)
        order = [rng.permutation(num_images) for _ in range(passes)]
        return np.concatenate(order)[:length]
