"""A backbone and a transform that train from cached features."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import MODELS, TRANSFORMS
from mmpretrain.models import ResNet
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

#: Features of the whole image and of its mirror image, for tests.
PLAIN_VIEWS = ('whole', 'mirrored')


@MODELS.register_module()
class CachedTrunkResNet(ResNet):
    """MMPretrain's ResNet, which also takes what enters its last stage.

    Args:
        **kwargs: Those of ``ResNet``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone, or its last stage alone.

        Args:
            x: Images (N, 3, H, W), or cached features (N, C, h, w).

        Returns:
            tuple[Tensor, ...]: The outputs of the stages, or of the last.
        """
        if x.size(1) == 3:
            return super().forward(x)
        return (getattr(self, self.res_layers[-1])(x),)


@MODELS.register_module()
class MatmulConv2d(nn.Conv2d):
    """A convolution as one product of matrices.

    On the small maps of a last stage, forward and backward pass take about
    half the time of PyTorch's on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolves (N, C, H, W) with zeros beyond its edges.

        Args:
            x: The feature maps.

        Returns:
            Tensor: (N, out_channels, H', W'), with the channels last in
            memory.
        """
        if self.groups > 1 or isinstance(self.padding, str):
            return super().forward(x)
        (up, left), (down, right) = self.stride, self.dilation
        high, wide = self.kernel_size
        top, side = self.padding
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, side, side, top, top))
        # Positions of the first and of the last output.
        bottom = x.size(1) - down * (high - 1)
        edge = x.size(2) - right * (wide - 1)
        parts = [
            x[:, i : i + bottom : up, j : j + edge : left]
            for i in range(0, down * high, down)
            for j in range(0, right * wide, right)
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        output = F.linear(torch.cat(parts, -1), weight, self.bias)
        return output.permute(0, 3, 1, 2)


@TRANSFORMS.register_module()
class LoadTrunkFeatures(BaseTransform):
    """Loads cached features in place of an image.

    Args:
        data_root (str): The cache, as ``make_cache`` writes it.
        view (str): ``'augmented'``, a random one of the cached views, or
            ``'whole'`` or ``'mirrored'``.
    """

    def __init__(self, data_root: str, view: str) -> None:
        self.folder = data_root
        self.view = view

    @cached_property
    def _cache(self) -> tuple[dict[str, int], np.ndarray]:
        augmented = self.view == 'augmented'
        kind = 'augmented' if augmented else 'plain'
        rows = read_index(self.folder)[kind]
        path = f'{self.folder}/{kind}.npy'
        return rows, np.lib.format.open_memmap(path, mode='r')

    def transform(self, results: dict) -> dict:
        """Puts the features (h, w, C), float32, where an image is expected.

        Args:
            results: Of a dataset, with ``img_path``.

        Returns:
            dict: With ``img``.

        Raises:
            ValueError: The image is not in the cache.
        """
        rows, features = self._cache
        path = os.path.realpath(results['img_path'])
        if path not in rows:
            raise ValueError(
                f'{path} is not in the cache {self.folder}: remove the cache '
                'or name another folder'
            )
        views = features[rows[path]]
        if self.view == 'augmented':
            # Seeded by the draw, see TwoStreamDataset.
            chosen = np.random.randint(len(views))
        else:
            chosen = PLAIN_VIEWS.index(self.view)
        results['img'] = views[chosen].astype(np.float32)
        return results


def read_index(folder: str | Path) -> dict[str, Any]:
    """Reads what a cache holds.

    Args:
        folder: The cache.

    Returns:
        dict[str, Any]: ``facts``; the rows of the ``augmented`` and
        ``plain`` features, and ``checksums``, by the image's path.
    """
    return json.loads((Path(folder) / 'index.json').read_text())
