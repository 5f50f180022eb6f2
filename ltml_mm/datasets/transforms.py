"""The training augmentations of the VOC-LT and COCO-LT protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, RandomFlip
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import PackInputs

#: What transforms drew and the data preprocessor does, in the metainfo.
DEVICE_KEYS = ('distortion', 'mirror')


@TRANSFORMS.register_module()
class RandomRatioCrop(BaseTransform):
    """Crops a random window relative to the image's own sides.

    Width and height are drawn independently between ``min_ratio`` and 1 of
    the image's, the place uniformly. MMPretrain's ``RandomResizedCrop``
    draws an area and an absolute aspect ratio.

    Required and modified keys: ``img``, an array (H, W, C); ``img_shape``.

    Args:
        min_ratio (float): The least share of each side, in (0, 1].

    Raises:
        ValueError: ``min_ratio`` is out of range.
    """

    def __init__(self, min_ratio: float = 0.8) -> None:
        if not 0 < min_ratio <= 1:
            raise ValueError(f'min_ratio must be in (0, 1], got {min_ratio}')
        self.min_ratio = min_ratio

    def transform(self, results: dict) -> dict:
        """Crops ``results['img']``."""
        height, width = results['img'].shape[:2]
        top, bottom = self._window(height)
        left, right = self._window(width)
        results['img'] = results['img'][top:bottom, left:right]
        results['img_shape'] = results['img'].shape[:2]
        return results

    def _window(self, side: int) -> tuple[int, int]:
        size = max(1, round(side * np.random.uniform(self.min_ratio, 1)))
        start = np.random.randint(side - size + 1)
        return start, start + size

    def __repr__(self) -> str:
        settings = ', '.join(f'{k}={v}' for k, v in vars(self).items())
        return f'{type(self).__name__}({settings})'


class Distortion(NamedTuple):
    """What :class:`PhotoMetricDistortion` drew for one image, in its order.

    The defaults change nothing.
    """

    brightness: float = 0.0
    contrast_before: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_after: float = 1.0


def distort(img: np.ndarray, drawn: Distortion) -> np.ndarray:
    """Distorts the colours of an image, uint8 BGR (H, W, 3).

    In float32, rounded once. Brightness and the first contrast act on each
    value by itself and are taken from a table; then follow, in HSV,
    saturation, capped at 1, hue, in degrees modulo 360, and contrast again.
    """
    values = np.arange(256, dtype=np.float32) + drawn.brightness
    values = (values * drawn.contrast_before).clip(0, 255)
    values = values.astype(np.float32)
    turn = math.fmod(drawn.hue, 360)
    if drawn.saturation == 1 and not turn:
        # One in four: without the way through HSV all is one table.
        table = cv2.convertScaleAbs(values, alpha=drawn.contrast_after)
        return cv2.LUT(img, table)
    hsv: Any = cv2.cvtColor(cv2.LUT(img, values), cv2.COLOR_BGR2HSV)
    hue, saturation = hsv[..., 0], hsv[..., 1]
    if drawn.saturation != 1:
        np.multiply(saturation, drawn.saturation, out=saturation)
    if drawn.saturation > 1:
        np.minimum(saturation, 1, out=saturation)
    if turn:
        np.add(hue, turn, out=hue)
        # As % 360, in a fifth of the time.
        if turn < 0:
            np.add(hue, 360, out=hue, where=hue < 0)
        else:
            np.subtract(hue, 360, out=hue, where=hue >= 360)
    bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    # Rounds half to even and clips; no value is negative here.
    return cv2.convertScaleAbs(bgr, alpha=drawn.contrast_after)


@TRANSFORMS.register_module()
class PhotoMetricDistortion(BaseTransform):
    """Distorts brightness, contrast, saturation and hue at random.

    The distortion of SSD (Liu et al., ECCV 2016): each of the four is
    applied with probability 0.5, contrast before or after the two colour
    steps. It acts on each pixel by itself, so after ``Resize`` it does the
    same for less work.

    Required and modified key: ``img``, uint8 BGR (H, W, 3).

    Args:
        brightness_delta (float): Largest shift of brightness, of 255.
        contrast_range (tuple[float, float]): Range of the contrast factor.
        saturation_range (tuple[float, float]): That of saturation.
        hue_delta (float): Largest shift of the hue, in degrees.
        on_device (bool): Whether to draw alone: the image stays, and
            ``distortion``, a :class:`Distortion`, is added, with which
            :class:`TwoStreamDataPreprocessor` distorts the batch on the
            model's device. Defaults to False.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: float = 18,
        on_device: bool = False,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta
        self.on_device = on_device

    def transform(self, results: dict) -> dict:
        """Distorts ``results['img']``, or draws how."""
        drawn = self._draw()
        if self.on_device:
            results['distortion'] = drawn
        else:
            results['img'] = distort(results['img'], drawn)
        return results

    def _draw(self) -> Distortion:
        delta = self.brightness_delta
        brightness = np.random.uniform(-delta, delta) if _coin() else 0.0
        contrast_first = _coin()
        before = self._contrast() if contrast_first else 1.0
        saturation, hue = 1.0, 0.0
        if _coin():
            saturation = np.random.uniform(*self.saturation_range)
        if _coin():
            hue = np.random.uniform(-self.hue_delta, self.hue_delta)
        after = 1.0 if contrast_first else self._contrast()
        return Distortion(brightness, before, saturation, hue, after)

    def _contrast(self) -> float:
        return np.random.uniform(*self.contrast_range) if _coin() else 1.0

    __repr__ = RandomRatioCrop.__repr__


@TRANSFORMS.register_module()
class RandomMirror(RandomFlip):
    """MMCV's ``RandomFlip`` from left to right, with the same draws.

    Required key: ``img``, (H, W, 3). Modified: ``img``. Added: ``flip`` and
    ``flip_direction``.

    Args:
        prob (float): The share of images that are mirrored. Defaults to 0.5.
        on_device (bool): Whether to draw alone: the image stays, and
            ``mirror`` is added, which :class:`TwoStreamDataPreprocessor`
            follows on the model's device. Defaults to False.
    """

    def __init__(self, prob: float = 0.5, on_device: bool = False) -> None:
        super().__init__(prob=prob, direction='horizontal')
        self.on_device = on_device

    def transform(self, results: dict) -> dict:
        """Draws, and mirrors ``results['img']``."""
        # What np.random.choice draws of it, in a tenth of the time.
        mirrored = np.random.random_sample() < self.prob
        direction = self.direction if mirrored else None
        results['flip'] = direction is not None
        results['flip_direction'] = direction
        if self.on_device:
            results['mirror'] = direction is not None
        elif direction is not None:
            # A view with a negative stride costs thirty times as much later.
            results['img'] = cv2.flip(results['img'], 1)
        return results


@TRANSFORMS.register_module()
class PackImage(PackInputs):
    """MMPretrain's ``PackInputs`` for colour images, in less time.

    The same result; it also packs what the transforms before it drew for
    the device. Required key: ``img``, an array (H, W, 3); further keys and
    arguments as those of ``PackInputs``.
    """

    DEFAULT_META_KEYS = (*PackInputs.DEFAULT_META_KEYS, *DEVICE_KEYS)

    def __init__(
        self,
        input_key: str = 'img',
        algorithm_keys: Sequence[str] = (),
        meta_keys: Sequence[str] = DEFAULT_META_KEYS,
    ) -> None:
        meta_keys = tuple(dict.fromkeys((*meta_keys, *DEVICE_KEYS)))
        super().__init__(input_key, algorithm_keys, meta_keys)

    @staticmethod
    def format_input(input_: Any) -> Any:
        """Turns an array (H, W, 3) into a tensor (3, H, W)."""
        if not isinstance(input_, np.ndarray) or input_.shape[2:] != (3,):
            return PackInputs.format_input(input_)
        planes = np.empty((3, *input_.shape[:2]), input_.dtype)
        cv2.split(input_, [*planes])
        return torch.from_numpy(planes)


def _coin() -> bool:
    # The global generator, as in stock transforms: TwoStreamDataset seeds it
    # for every draw.
    return bool(np.random.randint(2))
