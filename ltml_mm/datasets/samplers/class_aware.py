"""Class-aware (re-balanced) sampling of multi-label images."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS

from ltml_mm.datasets.samplers.stream import ImageStreamSampler


@DATA_SAMPLERS.register_module()
class ClassAwareMultiLabelSampler(ImageStreamSampler):
    """Draws a class uniformly, then an image of that class uniformly.

    The classes come from a shuffled list that is reshuffled after each
    cycle, the images of a class likewise, so that every class is drawn
    equally often and the images of rare classes repeat (re-balanced
    sampling of LTML, after Shen et al., ECCV 2016). One index per draw.
    Every epoch starts anew from (seed, epoch).

    It can be used alone, for a stock ``ImageClassifier``. The arguments are
    those of :class:`~ltml_mm.datasets.samplers.ImageStreamSampler`.

    Raises:
        ValueError: No image has a label.
    """

    def __init__(
        self,
        dataset: Sized,
        num_samples: int | str = 'class_max',
        reduce: int = 4,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, num_samples, reduce, seed)
        known = len(self.positive_counts())
        names = getattr(dataset, 'metainfo', {}).get('classes') or range(known)
        num_classes = max(len(names), known)
        self._images, self._offsets = self.labels.images_by_class(num_classes)
        counts = np.diff(self._offsets)
        self._classes = np.flatnonzero(counts)
        empty = [str(names[k]) for k in np.flatnonzero(counts == 0)]
        if empty:
            print_log(
                'ClassAwareMultiLabelSampler skips the classes without a '
                f'training image: {", ".join(empty)}',
                logger='current',
                level=30,
            )

    def order(self, epoch: int, length: int) -> np.ndarray:
        """Returns the image indices of an epoch, int64 (length,)."""
        rng = self._generator(epoch)
        num_classes = len(self._classes)
        cycles = -(-length // num_classes)
        # The order of the two draws fixes the epoch: first the classes of
        # all cycles, then class by class its images. Row c is cycle c's
        # shuffled list of the classes; every class is drawn once a row, so
        # its c-th image belongs into row c.
        rows = np.tile(np.arange(num_classes), (cycles, 1))
        rng.permuted(rows, axis=1, out=rows)
        images = np.empty((num_classes, cycles), np.int64)
        for row, label in enumerate(self._classes):
            start, stop = self._offsets[label : label + 2]
            members = self._images[start:stop]
            images[row] = members[_cycled(rng, len(members), cycles)]
        order = np.take_along_axis(images.T, rows, axis=1)
        return order.reshape(-1)[:length]


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(ImageStreamSampler):
    """Repeats images of rare classes, far less than class-aware draws do.

    Gupta et al., *LVIS*, CVPR 2019: a class with the share f of the images
    has the factor max(1, sqrt(t / f)), an image the largest of its classes;
    that is how often a pass holds it, rounded at random to the whole number
    below or above. The epoch is passes after one another, each shuffled.

    Args:
        dataset: See :class:`~ltml_mm.datasets.samplers.ImageStreamSampler`;
            so are ``num_samples``, ``reduce`` and ``seed``.
        threshold (float, optional): t, the share above which nothing is
            repeated. By default the median share of classes with images.

    Raises:
        ValueError: No image has a label, or ``threshold`` is not positive.
    """

    def __init__(
        self,
        dataset: Sized,
        num_samples: int | str = 'class_max',
        reduce: int = 4,
        seed: int | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__(dataset, num_samples, reduce, seed)
        counts = self.positive_counts()
        images, offsets = self.labels.images_by_class(len(counts))
        known = counts > 0
        shares = np.where(known, counts, 1) / len(dataset)
        if threshold is None:
            threshold = float(np.median(shares[known]))
        elif not threshold > 0:
            raise ValueError(f'threshold must be positive, got {threshold!r}')
        factors = np.maximum(1, np.sqrt(threshold / shares))
        self.factors = np.ones(len(dataset))
        owners = np.repeat(factors, np.diff(offsets))
        np.maximum.at(self.factors, images, owners)

    def order(self, epoch: int, length: int) -> np.ndarray:
        """Returns the image indices of an epoch, int64 (length,)."""
        rng = self._generator(epoch)
        passes, drawn = [], 0
        while drawn < length:
            whole = np.floor(self.factors)
            more = rng.random(len(whole)) < self.factors - whole
            times = (whole + more).astype(np.int64)
            passes.append(
                rng.permutation(np.repeat(np.arange(len(times)), times))
            )
            drawn += len(passes[-1])
        return np.concatenate(passes)[:length]


def _cycled(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """Concatenates shuffled lists of ``range(size)`` up to a length."""
    if size >= length:
        # The start of one shuffled list, without shuffling all of it.
        return rng.choice(size, length, replace=False)
    cycles = -(-length // size)
    lists = np.tile(np.arange(size), (cycles, 1))
    return rng.permuted(lists, axis=1, out=lists).reshape(-1)[:length]
