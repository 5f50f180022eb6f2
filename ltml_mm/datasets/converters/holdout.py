"""Holds out a stratified multi-label test set."""

from __future__ import annotations

import random

import numpy as np


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: int = 0
) -> np.ndarray:
    """Chooses test images so that every class keeps its share.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the
    Stratification of Multi-Label Data", ECML PKDD 2011) with two parts:
    again and again the class with the fewest images left is dealt out, each
    image to the part that lacks that class most, then to the one that lacks
    images most, then at random.

    Args:
        labels: 0/1 array of shape (N, K).
        fraction: The share of the test set, between 0 and 1.
        seed: Seed of the local generator.

    Returns:
        np.ndarray: Indices of the test images, ascending, int64 (M,).

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
    """
    check_fraction(fraction)
    rng = random.Random(int(seed))
    rows = np.asarray(labels, bool)
    shares = np.array([1 - fraction, fraction])
    lacks_images = shares * len(rows)
    lacks_class = shares[:, None] * rows.sum(0)
    waiting = np.ones(len(rows), bool)
    is_test = np.zeros(len(rows), bool)

    def deal(images: np.ndarray, label: int | None) -> None:
        order = images.tolist()
        rng.shuffle(order)
        for image in order:
            wishes = [
                (
                    0.0 if label is None else lacks_class[part, label],
                    lacks_images[part],
                    rng.random(),
                )
                for part in (0, 1)
            ]
            part = int(wishes[1] > wishes[0])
            is_test[image] = part == 1
            waiting[image] = False
            lacks_images[part] -= 1
            lacks_class[part] -= rows[image]

    while (left := rows[waiting].sum(0)).any():
        label = int(np.where(left > 0, left, len(rows) + 1).argmin())
        deal(np.flatnonzero(waiting & rows[:, label]), label)
    deal(np.flatnonzero(waiting), None)
    return np.flatnonzero(is_test)


def check_fraction(fraction: float) -> None:
    """Raises a ValueError if a share does not lie between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(
            f'the test fraction must lie between 0 and 1, got {fraction!r}'
        )
