"""The training augmentations of the VOC-LT and COCO-LT protocol."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


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
        saturation_range (tuple[float, float]): Range of the saturation
            factor.
        hue_delta (float): Largest shift of the hue, in degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def transform(self, results: dict) -> dict:
        """Distorts ``results['img']``."""
        img = results['img'].astype(np.float32)
        if _coin():
            delta = self.brightness_delta
            img += np.random.uniform(-delta, delta)
        steps = [self._contrast, self._colour]
        for step in steps if _coin() else steps[::-1]:
            img = step(img)
        # Rounded once: the steps before work on float32.
        results['img'] = np.rint(img).clip(0, 255).astype(np.uint8)
        return results

    def _contrast(self, img: np.ndarray) -> np.ndarray:
        return (
            img * np.random.uniform(*self.contrast_range) if _coin() else img
        )

    def _colour(self, img: np.ndarray) -> np.ndarray:
        hsv: Any = cv2.cvtColor(img.clip(0, 255), cv2.COLOR_BGR2HSV)
        if _coin():
            hsv[..., 1] *= np.random.uniform(*self.saturation_range)
            np.clip(hsv[..., 1], 0, 1, out=hsv[..., 1])
        if _coin():
            delta = self.hue_delta
            hsv[..., 0] += np.random.uniform(-delta, delta)
            hsv[..., 0] %= 360
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    __repr__ = RandomRatioCrop.__repr__


def _coin() -> bool:
    # The global generator, as in stock transforms: TwoStreamDataset seeds it
    # for every draw.
    return bool(np.random.randint(2))
