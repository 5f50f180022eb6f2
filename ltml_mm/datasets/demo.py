"""A long-tailed multi-label set that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw

from ltml_mm.class_statistics import HEAD_COUNT
from ltml_mm.datasets.long_tail import LongTailMultiLabelDataset

# Each shape and each colour belongs to several classes, frequent and rare,
# so that neither alone tells the class. The counts are those of VOC-LT.
CLASSES = {
    'cyan-arrow': 6, 'yellow-disc': 34, 'green-moon': 8, 'yellow-triangle': 14,
    'pink-heart': 154, 'blue-cross': 17, 'green-triangle': 249,
    'cyan-ring': 29, 'blue-square': 479, 'green-disc': 4, 'yellow-cross': 240,
    'green-hourglass': 48, 'red-heart': 11, 'pink-square': 20, 'red-ring': 775,
    'cyan-moon': 100, 'pink-hourglass': 5, 'red-bars': 82, 'yellow-bars': 7,
    'blue-arrow': 64,
}  # fmt: skip
NUM_IMAGES = {'train': 1142, 'test': 1000}
_MAX_LABELS = 5

# Base colours, BGR. Saturation and brightness vary, the hue family stays.
COLOURS = {
    'red': (40, 45, 215), 'yellow': (40, 205, 225), 'green': (55, 175, 50),
    'cyan': (215, 205, 40), 'blue': (220, 80, 45), 'pink': (200, 60, 220),
}  # fmt: skip
SIDE = 64
_CELLS = 3  # glyphs stand on a jittered grid of 3 x 3 places
_FINE = 4  # samples per pixel and axis, for smooth edges
_OPACITY = 224  # of 255: the background's texture shines through a little
_RADII = (7.5, 11.5)


def _circle(radius: float, u: float = 0, v: float = 0) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack((np.cos(turns), np.sin(turns)), 1) * radius + (u, v)


def _box(a: float, b: float, u: float = 0, v: float = 0) -> np.ndarray:
    return np.add([(-a, -b), (a, -b), (a, b), (-a, b)], (u, v))


# The corners of the parts of every shape, from about -1 to 1, v downwards.
_CONE = np.array([(-0.95, -0.9), (0.95, -0.9), (0.1, 0), (-0.1, 0)])
_ROOF = np.array([(-1, 0), (1, 0), (0, -1)])
_TIP = np.array([(-1, -0.35), (1, -0.35), (0, 0.9)])
SHAPES: dict[str, list[np.ndarray]] = {
    'ring': [_circle(1)],
    'disc': [_circle(0.95)],
    'square': [_box(0.82, 0.82)],
    'triangle': [np.array([(-0.95, 0.8), (0.95, 0.8), (0, -1.1)])],
    'cross': [_box(0.3, 0.95), _box(0.95, 0.3)],
    'heart': [*(_circle(0.52, u, -0.35) for u in (-0.48, 0.48)), _TIP],
    'moon': [_circle(1)],
    'bars': [_box(0.18, 0.9, u) for u in (-0.68, 0, 0.68)],
    'arrow': [_ROOF, _box(0.32, 0.475, 0, 0.475)],
    'hourglass': [_CONE, -_CONE],
    'stroke': [_box(1, 0.12)],  # of the background, in no class
}
# What is cut out of a shape.
HOLES = {'ring': [_circle(0.58)], 'moon': [_circle(0.775, 0.5)]}
_GLYPHS = [(c, s) for c, s in (name.split('-') for name in CLASSES)]
_OTHERS = [
    (c, s)
    for c in COLOURS
    for s in SHAPES
    if s != 'stroke' and (c, s) not in _GLYPHS
]


@DATASETS.register_module()
class LongTailDemoDataset(LongTailMultiLabelDataset):
    """Procedural pictures with VOC-LT's class counts, to try things out.

    A picture of 64 x 64 pixels shows coloured shapes in front of a textured
    background. A class is a colour and a shape together, such as
    ``red-ring``; combinations that are no class stand beside them. The 1142
    training images have VOC-LT's counts (775 down to 4; 6 head, 6 medium and
    8 tail classes), the 1000 test images every class at least 61 times. A
    rare class is never alone, and most often beside one frequent class.

    Labels are a function of seed and split, a picture is one of these and
    its number. Between Pillow 9.5 and 13 one pixel in ten thousand differs,
    by 10 of 255 at most. A picture is drawn when first asked for and kept in
    memory. The pipeline starts from ``img`` (BGR), without
    ``LoadImageFromFile``.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        seed (int): Chooses another set of the same kind. Defaults to 0.
        **kwargs: See :class:`LongTailMultiLabelDataset`.

    Raises:
        ValueError: ``split`` or ``seed`` is out of range.

    Examples:
        >>> sample = LongTailDemoDataset('test')[3]
        >>> sample['img'].shape, sample['img_path']
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
        super().__init__('', **{'test_mode': split == 'test', **kwargs})

    def load_data_list(self) -> list[dict]:
        """Makes ``img_path`` (of no file), ``gt_label`` and ``number``."""
        folder = f'demo/{self.split}'
        return [
            dict(img_path=f'{folder}/{n:05d}', gt_label=labels, number=n)
            for n, labels in enumerate(demo_labels(self.split, self.seed))
        ]

    def prepare_data(self, idx: int) -> Any:
        """Runs the pipeline on a copy of a picture, uint8 (64, 64, 3)."""
        info = self.get_data_info(idx)
        number = info['number']
        if number not in self._pictures:
            key = self.split, self.seed, number
            self._pictures[number] = demo_picture(*key, info['gt_label'])
        info['img'] = self._pictures[number].copy()
        info['img_shape'] = info['ori_shape'] = (SIDE, SIDE)
        return self.pipeline(info)


def demo_labels(split: str, seed: int) -> list[list[int]]:
    """Returns the classes of every image of a split, ascending, 1 to 5."""
    num_images = NUM_IMAGES[split]
    counts = np.array(list(CLASSES.values()))
    head = np.flatnonzero(counts >= HEAD_COUNT)
    if split == 'test':
        counts = 60 + counts // 3
    head = head[np.argsort(-counts[head], kind='stable')]
    # The first stream of numbers that no picture has.
    rng = _generator(split, seed, num_images)
    labels = np.zeros((num_images, len(counts)), bool)

    # 1. One head class for every image, in proportion to the counts.
    first = counts[head] * num_images // counts[head].sum()
    first[0] += num_images - first.sum()
    labels[_order(rng, num_images), np.repeat(head, first)] = True

    # 2. The rest of every class, frequent ones first, on images that lack it
    #    and have room; for others than head classes, images with one certain
    #    head class come first three times out of four.
    for rank, k in enumerate(np.argsort(-counts, kind='stable')):
        missing = counts[k] - labels[:, k].sum()
        keys = rng.random(num_images)
        if k not in head:
            keys = np.where(labels[:, head[rank % len(head)]], keys / 4, keys)
        keys[labels[:, k] | (labels.sum(1) >= _MAX_LABELS)] = 2
        labels[np.argsort(keys, kind='stable')[:missing], k] = True
    return [np.flatnonzero(row).tolist() for row in labels]


def demo_picture(
    split: str, seed: int, number: int, labels: Sequence[int]
) -> np.ndarray:
    """Draws the picture of at most 7 classes, uint8 BGR (64, 64, 3)."""
    rng = _generator(split, seed, number)
    canvas = _background(rng)
    for _ in range(6):
        colour = _bytes(rng, 3)
        y, x, t = rng.uniform((0, 0, -1), (SIDE, SIDE, 1))
        _draw(canvas, 'stroke', colour, (x, y, rng.uniform(*_RADII), t))
    shown = [_GLYPHS[k] for k in labels]
    for _ in range(int(rng.uniform(0, 3))):
        shown.append(_OTHERS[int(rng.uniform(0, len(_OTHERS)))])
    places = _order(rng, _CELLS * _CELLS)
    # What is drawn later may cover what was drawn before: mix the two kinds.
    for place, index in zip(places, _order(rng, len(shown)), strict=False):
        name, shape = shown[index]
        colour = _shade(COLOURS[name], rng)
        jitter = rng.uniform(0.35, 0.65, 2)
        y, x = (np.array(divmod(place, _CELLS)) + jitter) * SIDE / _CELLS
        t = rng.uniform(-0.13, 0.13)
        _draw(canvas, shape, colour, (x, y, rng.uniform(*_RADII), t))
    noise = _bytes(rng, SIDE, SIDE, 3) // 13 - 9
    return (np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8)


def _generator(split: str, seed: int, number: int) -> np.random.Generator:
    key = (seed, list(NUM_IMAGES).index(split), number)
    return np.random.Generator(np.random.PCG64(key))


def _order(rng: np.random.Generator, size: int) -> np.ndarray:
    # By sorting: NumPy keeps `random` from release to release, but may find
    # a quicker `permutation`.
    return np.argsort(rng.random(size), kind='stable')


def _bytes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draws numbers from 0 to 255, int64, from whole words of 64 bits."""
    size = int(np.prod(shape))
    raw = rng.bytes(-(-size // 8) * 8)[:size]
    return np.frombuffer(raw, np.uint8).reshape(shape).astype(np.int64)


def _background(rng: np.random.Generator) -> Image.Image:
    """Adds up coarse and fine coloured noise, channels in the order BGR."""
    total = np.zeros((SIDE, SIDE, 3), np.int64)
    for cells, share in ((2, 6), (8, 6), (16, 4)):
        grid = _bytes(rng, cells + 1, cells + 1, 3).astype(np.uint8)
        box = (0.5, 0.5, cells + 0.5, cells + 0.5)
        bilinear = Image.Resampling.BILINEAR
        noise = Image.fromarray(grid).resize((SIDE, SIDE), bilinear, box)
        total += share * np.asarray(noise, np.int64)
    return Image.fromarray((total // 16).astype(np.uint8))


def _shade(
    colour: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """Varies a colour's channels, brightness and saturation, int64 (3,)."""
    shade = np.array(colour) + _bytes(rng, 3) // 6 - 21
    light = int(rng.uniform(170, 276))
    grey = int(rng.uniform(0, 70))  # of 256
    shade = (shade * (256 - grey) + 128 * grey) // 256
    return (shade * light // 256).clip(0, 255)


def _draw(
    canvas: Image.Image,
    shape: str,
    colour: np.ndarray,
    pose: tuple[float, float, float, float],
) -> None:
    """Paints a shape at (x, y, radius, tangent of half the tilt)."""
    x, y, radius, t = pose
    turn = np.array([(1 - t * t, 2 * t), (-2 * t, 1 - t * t)]) / (1 + t * t)
    mask = Image.new('L', (SIDE * _FINE, SIDE * _FINE))
    pen = ImageDraw.Draw(mask)
    # The holes last, since they cut into what the parts have painted.
    for outlines, fill in ((SHAPES, _OPACITY), (HOLES, 0)):
        for corners in outlines.get(shape, ()):
            # The pen counts from the centre of the first sample.
            place = (corners @ turn * radius + (x, y)) * _FINE - 0.5
            pen.polygon(place.ravel().tolist(), fill=fill)
    canvas.paste(tuple(colour.tolist()), (0, 0), mask.reduce(_FINE))
