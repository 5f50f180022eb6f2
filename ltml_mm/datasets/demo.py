"""A long-tailed multi-label set that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.registry import DATASETS

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.demo_pictures import (
    COLOURS,
    SHAPES,
    Draws,
    draw_picture,
)
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset

# Each shape and each colour belongs to several classes, frequent and rare,
# so that neither alone tells the class. The counts are those of VOC-LT.
CLASSES = {
    'cyan-arrow': 6,
    'yellow-disc': 34,
    'green-moon': 8,
    'yellow-triangle': 14,
    'pink-heart': 154,
    'blue-cross': 17,
    'green-triangle': 249,
    'cyan-ring': 29,
    'blue-square': 479,
    'green-disc': 4,
    'yellow-cross': 240,
    'green-hourglass': 48,
    'red-heart': 11,
    'pink-square': 20,
    'red-ring': 775,
    'cyan-moon': 100,
    'pink-hourglass': 5,
    'red-bars': 82,
    'yellow-bars': 7,
    'blue-arrow': 64,
}
NUM_IMAGES = {'train': 1142, 'test': 1000}
_MAX_LABELS = 5

_GLYPHS = [(c, s) for c, s in (name.split('-') for name in CLASSES)]
_OTHERS = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in _GLYPHS]


@DATASETS.register_module()
class LongTailDemoDataset(LongTailMultiLabelDataset):
    """Procedural pictures with VOC-LT's class counts, to try things out.

    A picture of 64 x 64 pixels shows coloured shapes in front of a textured
    background. A class is a colour and a shape together, such as
    ``red-ring``; combinations that are no class stand beside them. The 1142
    training images have the class counts of VOC-LT (775 down to 4; 6 head,
    6 medium and 8 tail classes), the 1000 test images have every class at
    least 61 times. Head classes cover the images, the others come on top:
    a rare class is never alone, and most often beside one frequent class.

    A picture is a function of seed, split and number, the same on every
    machine. It is drawn when first asked for and kept in memory; labels are
    there without drawing any. The pipeline starts from ``img`` (BGR), so it
    has no ``LoadImageFromFile``.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        seed (int): Chooses another set of the same kind. Defaults to 0.
        **kwargs: ``pipeline``, ``indices``, ``metainfo``, ``lazy_init`` and
            so on, see :class:`LongTailMultiLabelDataset`.

    Raises:
        ValueError: ``split`` or ``seed`` is out of range.

    Examples:
        >>> dataset = LongTailDemoDataset('test')
        >>> dataset
        Dataset LongTailDemoDataset
            Number of samples:  1000
            Number of categories:       20
            Split:      test (seed 0)
        >>> info = dataset.get_data_info(3)
        >>> info['img'].shape, info['img_path']
        ((64, 64, 3), 'demo/test/00003')
    """

    METAINFO = {  # noqa: RUF012
        'classes': tuple(CLASSES),
        'class_counts': list(CLASSES.values()),
        'num_train_images': NUM_IMAGES['train'],
    }

    def __init__(
        self, split: str = 'train', seed: int = 0, **kwargs: Any
    ) -> None:
        if split not in NUM_IMAGES:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        if type(seed) is not int or seed < 0:
            raise ValueError(f'seed must be an integer from 0, got {seed!r}')
        self.split = split
        self.seed = seed
        self._pictures: dict[int, np.ndarray] = {}
        super().__init__(
            ann_file='',
            **{'test_mode': split == 'test', **kwargs},
        )

    def load_data_list(self) -> list[dict]:
        """Makes the labels.

        Returns:
            list[dict]: One entry per image with ``img_path`` (a name, there
            is no file), ``gt_label`` and ``number``.
        """
        return [
            {
                'img_path': f'demo/{self.split}/{number:05d}',
                'gt_label': labels,
                'number': number,
            }
            for number, labels in enumerate(demo_labels(self.split, self.seed))
        ]

    def get_data_info(self, idx: int) -> dict:
        """Returns an image with its labels.

        Args:
            idx: Index of the image.

        Returns:
            dict: ``img`` (uint8 BGR of shape (64, 64, 3), a copy),
            ``img_shape``, ``ori_shape``, ``img_path``, ``gt_label`` and
            ``sample_idx``.
        """
        info = super().get_data_info(idx)
        number = info.pop('number')
        if number not in self._pictures:
            self._pictures[number] = demo_picture(
                self.split, self.seed, number, info['gt_label']
            )
        info['img'] = self._pictures[number].copy()
        info['img_shape'] = info['ori_shape'] = info['img'].shape[:2]
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Returns the classes of an image without drawing it.

        Args:
            idx: Index of the image.

        Returns:
            list[int]: Class indices, ascending.
        """
        return super().get_data_info(idx)['gt_label']

    def extra_repr(self) -> list[str]:
        """Names the split and the seed."""
        return [f'Split: \t{self.split} (seed {self.seed})']


def demo_picture(
    split: str, seed: int, number: int, labels: Sequence[int]
) -> np.ndarray:
    """Draws one picture of the demo set.

    Args:
        split: ``'train'`` or ``'test'``.
        seed: Seed of the set.
        number: Number of the image in its split.
        labels: Its classes.

    Returns:
        np.ndarray: uint8 BGR of shape (64, 64, 3).
    """
    draws = Draws(seed, list(NUM_IMAGES).index(split), number)
    return draw_picture([_GLYPHS[k] for k in labels], _OTHERS, draws)


def demo_labels(split: str, seed: int) -> list[list[int]]:
    """Makes the labels of all images of a split.

    Args:
        split: ``'train'`` or ``'test'``.
        seed: Seed of the set.

    Returns:
        list[list[int]]: The classes of every image, ascending, 1 to 5.
    """
    num_images = NUM_IMAGES[split]
    statistics = ClassStatistics(tuple(CLASSES.values()), NUM_IMAGES['train'])
    counts = np.array(statistics.counts)
    if split == 'test':
        counts = 60 + counts // 3
    head = np.array(statistics.groups()['head'])
    head = head[np.argsort(-counts[head], kind='stable')]
    # The first stream of numbers no picture has.
    draws = Draws(seed, list(NUM_IMAGES).index(split), num_images)
    labels = np.zeros((num_images, len(counts)), bool)

    # 1. One head class for every image, in proportion to the counts.
    first = counts[head] * num_images // counts[head].sum()
    first[0] += num_images - first.sum()
    labels[draws.order(num_images), np.repeat(head, first)] = True

    # 2. The rest of every class, frequent ones first, on images that lack it
    #    and have room; for others than head classes, images with one certain
    #    head class come first three times out of four.
    for rank, k in enumerate(np.argsort(-counts, kind='stable')):
        missing = counts[k] - labels[:, k].sum()
        keys = draws.uniform(num_images)
        if k not in head:
            companion = labels[:, head[rank % len(head)]]
            keys = np.where(companion, keys / 4, keys)
        full = labels.sum(1) >= _MAX_LABELS
        keys[labels[:, k] | full] = 2
        labels[np.argsort(keys, kind='stable')[:missing], k] = True
    return [np.flatnonzero(row).tolist() for row in labels]
