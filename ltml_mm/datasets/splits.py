"""Splits of multi-label data: long-tailed training sets, stratified test sets.

VOC-LT and COCO-LT are those of the Distribution-Balanced Loss (Wu et al.,
ECCV 2020), down to the order of the random draws.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ltml_mm.datasets.annotations import LabelTable


@dataclass(frozen=True)
class ParetoRecipe:
    """Draws a long-tailed subset of multi-label images.

    The target counts of the classes, ranked by :func:`rank_classes`, fall
    from ``max_count`` towards ``min_count`` like a Pareto density. Class by
    class, images are added at random until the target is met, or taken away
    where earlier classes brought too many. Later classes change the counts
    of earlier ones, so the targets are met only roughly.

    Attributes:
        max_count: Target of the first class.
        min_count: What the targets fall towards.
        shape: Shape b of the Pareto distribution: larger is steeper.
        tail: The quantile at which the last class stands, in [0, 1).
        seed: Seed of the local generator.

    Raises:
        ValueError: One of them is out of range.

    Examples:
        >>> labels = np.eye(3, dtype=int).repeat(50, axis=0)
        >>> chosen = ParetoRecipe(max_count=40).split(labels)
        >>> labels[chosen].sum(axis=0).tolist()
        [40, 2, 1]
    """

    max_count: int
    min_count: int = 1
    shape: float = 6.0
    tail: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_count <= self.max_count or self.max_count < 1:
            raise ValueError(
                'max_count must be at least 1 and min_count from 0 to '
                f'max_count; got max_count={self.max_count!r}, '
                f'min_count={self.min_count!r}'
            )
        if not (self.shape > 0 and math.isfinite(self.shape)):
            raise ValueError(
                f'shape must be a positive number, got {self.shape!r}'
            )
        if not 0 <= self.tail < 1:
            raise ValueError(f'tail must lie in [0, 1), got {self.tail!r}')

    def targets(self, num_classes: int) -> list[int]:
        """Returns the K target counts, largest first.

        The i-th is ``int(pdf(t_i) / b * (max - min) + min)`` with the density
        b / t^(b + 1) of a Pareto distribution of shape b, at K points evenly
        from its quantile 0 to its quantile ``tail``.
        """
        last = (1 - self.tail) ** (-1 / self.shape)
        points = np.linspace(1.0, last, num_classes).tolist()
        spread = self.max_count - self.min_count
        # b cancels out; so the first target is max_count, without rounding.
        return [
            int(t ** -(self.shape + 1) * spread + self.min_count)
            for t in points
        ]

    def split(self, labels: np.ndarray) -> np.ndarray:
        """Draws the subset.

        Args:
            labels: 0/1 array of shape (N, K), any numeric or bool dtype.

        Returns:
            np.ndarray: The chosen indices, ascending, int64 of shape (M,).

        Warns:
            UserWarning: Classes have fewer images than their target; they
                give what they have.
        """
        positives = np.asarray(labels, bool)
        targets = self.targets(positives.shape[1])
        rng = random.Random(int(self.seed))
        # The draws depend on the order in which a set of ints iterates,
        # hence on how it was built.
        chosen: list[set[int]] = [set() for _ in targets]
        short = []
        ranked = rank_classes(positives)
        for label, target in zip(ranked, targets, strict=True):
            inside = chosen[label]
            new = target - len(inside)
            if new > 0:
                members = np.flatnonzero(positives[:, label]).tolist()
                pool = set(members) - inside
                if new > len(pool):
                    short.append(f'{label} ({len(members)}/{target})')
                picked = rng.sample(tuple(pool), min(new, len(pool)))
                change = set.add
            else:
                picked = rng.sample(tuple(inside), -new)
                change = set.discard
            for image in picked:
                for other in np.flatnonzero(positives[image]):
                    change(chosen[other], image)
        if short:
            warnings.warn(
                'ParetoRecipe.split: classes with fewer images than their '
                'target give what they have: (images/target) '
                f'{", ".join(short)}',
                stacklevel=2,
            )
        return np.array(sorted(set().union(*chosen)), np.int64)


@dataclass(frozen=True)
class PublishedSplit:
    """A published training split: its recipe and its fingerprint.

    Attributes:
        recipe: How it was drawn.
        num_images: The number of its images.
        sha256: :func:`ids_checksum` of its ids.
    """

    recipe: ParetoRecipe
    num_images: int
    sha256: str

    def matches(self, ids: Iterable[str | int]) -> bool:
        """Tells whether these are the published ids, in any order."""
        return ids_checksum(ids) == self.sha256


def ids_checksum(ids: Iterable[str | int]) -> str:
    """Returns the sha256 of ids, sorted as text and joined by newlines."""
    text = '\n'.join(sorted(str(i) for i in ids))
    return hashlib.sha256(text.encode()).hexdigest()


def rank_classes(labels: np.ndarray) -> list[int]:
    """Ranks the classes by how much they co-occur with all classes.

    Args:
        labels: 0/1 array of shape (N, K).

    Returns:
        list[int]: Class indices by decreasing sum over j of P(k | j), the
        share of the images of class j that show class k; classes without an
        image last, ties by index.
    """
    together = cooccurrence(labels)
    # A class without an image shares none: 0 / 1.
    shares = together / np.diagonal(together).clip(1)[:, None]
    # fsum rounds once: the rank does not depend on the order of summation.
    sums = [math.fsum(column) for column in shares.T.tolist()]
    return sorted(range(len(sums)), key=lambda k: -sums[k])


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """Counts the images that show two classes, int64 (K, K), of (N, K)."""
    # Exact in float32 up to 2^24 images; BLAS makes it quick.
    positives = np.asarray(labels, np.float32)
    return np.rint(positives.T @ positives).astype(np.int64)


VOC_LT = PublishedSplit(
    ParetoRecipe(max_count=800),
    num_images=1142,
    sha256='6fa70d5b693700d97657acd03b18b4d198aa59795dc99828db2c21a2abf2133f',
)
COCO_LT = PublishedSplit(
    ParetoRecipe(max_count=1200),
    num_images=1909,
    sha256='b2fec8ea5085da2dc305e2f1224eed7365151058a34d26f2ca340f582ff55f4c',
)


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: int = 0
) -> np.ndarray:
    """Chooses test images so that every class keeps its share.

    Iterative stratification (Sechidis et al., ECML PKDD 2011) with two
    parts: again and again the class with the fewest images left is dealt
    out, each image to the part that lacks that class most, then to the one
    that lacks images most, then at random.

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
    images, classes = np.nonzero(rows)
    starts = np.searchsorted(images, np.arange(len(rows) + 1))
    table = LabelTable(classes, starts)
    members, offsets = table.images_by_class(rows.shape[1])
    # Of every class: the images that are not dealt out yet.
    left = np.diff(offsets)
    shares = np.array([1 - fraction, fraction])
    lacks_images = shares * len(rows)
    lacks_class = shares[:, None] * left
    waiting = np.ones(len(rows), bool)
    is_test = np.zeros(len(rows), bool)

    def deal(order: list[int], label: int | None) -> None:
        rng.shuffle(order)
        for image in order:
            lacks = (0, 0) if label is None else lacks_class[:, label]
            wishes = [
                (lacks[part], lacks_images[part], rng.random())
                for part in (0, 1)
            ]
            part = int(wishes[1] > wishes[0])
            is_test[image] = part == 1
            waiting[image] = False
            lacks_images[part] -= 1
            shown = classes[starts[image] : starts[image + 1]]
            lacks_class[part, shown] -= 1
            left[shown] -= 1

    # The rarest class first: a frequent one is balanced with what is left.
    while left.any():
        label = int(np.where(left > 0, left, len(rows) + 1).argmin())
        own = members[offsets[label] : offsets[label + 1]]
        deal(own[waiting[own]].tolist(), label)
    deal(np.flatnonzero(waiting).tolist(), None)
    return np.flatnonzero(is_test)


def check_fraction(fraction: float) -> None:
    """Raises a ValueError if a share does not lie between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(
            f'a fraction to hold out must be between 0 and 1, got {fraction!r}'
        )
