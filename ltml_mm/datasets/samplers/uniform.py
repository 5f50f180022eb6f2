"""Uniform sampling of images."""

from __future__ import annotations

import numpy as np
from mmengine.registry import DATA_SAMPLERS

from ltml_mm.datasets.samplers.stream import ImageStreamSampler


@DATA_SAMPLERS.register_module()
class UniformSampler(ImageStreamSampler):
    """Draws images uniformly, without repeats within a pass.

    The sequence of an epoch is whole permutations of the images after one
    another, cut at the epoch's end (the uniform stream of LTML). It differs
    from MMEngine's ``DefaultSampler`` in that an epoch may be longer or
    shorter than the dataset.

    Args:
        dataset (Sized): The dataset to draw from, with ``get_cat_ids``.
        num_samples (int | str): Draws per epoch over all ranks: an int,
            ``'dataset'`` or ``'class_max'``. Defaults to ``'class_max'``.
        reduce (int): The divisor of ``'class_max'``. Defaults to 4.
        seed (int, optional): Seed of the order. Defaults to None.
    """

    def order(self, epoch: int, length: int) -> np.ndarray:
        """Returns the image indices of an epoch of some length.

        Args:
            epoch: Index of the epoch.
            length: How many indices.

        Returns:
            np.ndarray: int64 of shape (length,).
        """
        rng = self._generator(epoch)
        num_images = len(self.dataset)
        passes = -(-length // num_images)
        order = [rng.permutation(num_images) for _ in range(passes)]
        return np.concatenate(order)[:length]
