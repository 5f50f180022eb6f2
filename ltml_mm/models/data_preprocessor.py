"""Prepares the batches of several streams."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor


@MODELS.register_module()
class TwoStreamDataPreprocessor(ClsDataPreprocessor):
    """A ``ClsDataPreprocessor`` that handles each stream by itself.

    A training batch holds a dict of streams under ``inputs`` and
    ``data_samples``. Each stream is normalised, padded and, where batch
    augmentations (Mixup, CutMix) are configured, mixed within itself, so
    that an image of one stream never enters the other. Flat batches, as
    test dataloaders make them, pass through the parent unchanged.

    Args:
        **kwargs: The arguments of MMPretrain's ``ClsDataPreprocessor``:
            ``mean``, ``std``, ``to_rgb``, ``batch_augments`` and so on.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepares a batch.

        Args:
            data (dict): ``inputs``, images (N, 3, H, W) or a list of them,
                and ``data_samples``, a list; or a dict of streams of each.
            training (bool): Whether to apply batch augmentations.

        Returns:
            dict: ``inputs``, float32 (N, 3, H, W), and ``data_samples``; a
            dict of streams of each where the batch had streams.
        """
        if not isinstance(data['inputs'], dict):
            return super().forward(data, training)
        streams: dict[str, Any] = {
            name: super(TwoStreamDataPreprocessor, self).forward(
                {key: value[name] for key, value in data.items()}, training
            )
            for name in data['inputs']
        }
        return {
            key: {name: stream[key] for name, stream in streams.items()}
            for key in ('inputs', 'data_samples')
        }
