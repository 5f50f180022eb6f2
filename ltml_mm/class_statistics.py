"""Class statistics of a training set: one place, computed once."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD_COUNT = 100
TAIL_COUNT = 20
GROUPS = ('head', 'medium', 'tail')

# The keys under which the statistics travel in a dataset's ``metainfo``.
COUNTS_KEY = 'class_counts'
IMAGES_KEY = 'num_train_images'


@dataclass(frozen=True)
class ClassStatistics:
    """How often each class is positive in a training set.

    Args:
        counts: n_k, the number of training images with class k, length K.
        num_images: N, the number of training images.

    Raises:
        ValueError: A count is negative, not an integer, or larger than
            ``num_images``.

    Examples:
        >>> stats = ClassStatistics((775, 34, 4), num_images=1142)
        >>> stats.groups()
        {'head': [0], 'medium': [1], 'tail': [2]}
    """

    counts: tuple[int, ...]
    num_images: int

    def __post_init__(self) -> None:
        counts = tuple(_as_count(n, i) for i, n in enumerate(self.counts))
        object.__setattr__(self, 'counts', counts)
        num_images = _as_count(self.num_images, None)
        object.__setattr__(self, 'num_images', num_images)
        if (most := max(counts, default=0)) > num_images:
            raise ValueError(
                f'class {counts.index(most)} has {most} training images, more '
                f'than the {num_images} that the training set holds'
            )

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.counts)

    def group_of(
        self, head: int = HEAD_COUNT, tail: int = TAIL_COUNT
    ) -> list[str]:
        """Names the group of every class, by its training count.

        ``head`` images or more make a head class, fewer than ``tail`` a tail
        class; what lies between is medium (protocol of VOC-LT and COCO-LT).

        Raises:
            ValueError: ``tail`` is larger than ``head``.
        """
        if tail > head:
            raise ValueError(
                f'tail={tail} must not be larger than head={head}'
            )
        return [
            'head' if n >= head else 'medium' if n >= tail else 'tail'
            for n in self.counts
        ]

    def groups(
        self, head: int = HEAD_COUNT, tail: int = TAIL_COUNT
    ) -> dict[str, list[int]]:
        """Lists the classes of every group, see :meth:`group_of`."""
        names = self.group_of(head, tail)
        return {
            group: [k for k, name in enumerate(names) if name == group]
            for group in GROUPS
        }

    @classmethod
    def from_metainfo(cls, metainfo: Mapping[str, Any]) -> ClassStatistics:
        """Reads ``class_counts`` and ``num_train_images`` of a ``metainfo``.

        Raises:
            ValueError: ``class_counts`` is missing or is not a list of one
                count for each of ``classes``.
        """
        counts = metainfo.get(COUNTS_KEY)
        if counts is None:
            raise ValueError(
                f'the dataset has no "{COUNTS_KEY}" in its metainfo; use '
                'LongTailMultiLabelDataset, or pass metainfo=dict('
                f'{COUNTS_KEY}=[...]) with one training count per class'
            )
        if isinstance(counts, str) or not hasattr(counts, '__len__'):
            raise ValueError(
                f'"{COUNTS_KEY}" must be a list of one training count per '
                f'class, got {counts!r}'
            )
        classes = metainfo.get('classes')
        if classes is not None and len(classes) != len(counts):
            raise ValueError(
                f'"{COUNTS_KEY}" has {len(counts)} entries for '
                f'{len(classes)} classes'
            )
        num_images = metainfo.get(IMAGES_KEY)
        if num_images is None:
            # The least that the counts allow: enough for a test set's groups.
            checked = [_as_count(n, i) for i, n in enumerate(counts)]
            num_images = max(checked, default=0)
        return cls(tuple(counts), num_images)

    def to_metainfo(self) -> dict[str, Any]:
        """Returns the entries that carry the statistics in ``metainfo``."""
        return {COUNTS_KEY: list(self.counts), IMAGES_KEY: self.num_images}


def _as_count(value: Any, index: int | None) -> int:
    name = 'num_images' if index is None else f'the count of class {index}'
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(
            f'{name} must be a non-negative integer, got {value!r}'
        )
    return count
