"""Means over the classes of losses that sum over them."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .base import upcast


@ROOT_MODELS.register_module()
class ClassMeanLoss(nn.Module):
    """A multi-label loss of MMPretrain as a mean over the K classes.

    MMPretrain's heads divide a multi-label loss by the number of images
    alone, so that it sums over the classes, and one learning rate means K
    times the step that it means for a loss that averages over both, as the
    losses of LTML do.

    Args:
        loss (dict): Config of a loss of MMPretrain.

    Examples:
        >>> import torch
        >>> loss = ClassMeanLoss(dict(type='CrossEntropyLoss',
        ...                           use_sigmoid=True))
        >>> zeros = torch.zeros(2, 8)
        >>> loss(zeros, zeros)
        tensor(0.6931)
    """

    def __init__(self, loss: dict) -> None:
        super().__init__()
        self.loss = MODELS.build(loss)

    def forward(self, logits: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Computes the mean over images and classes.

        Args:
            logits: Raw scores (N, K), any float dtype; the loss gets them in
                float32, or in float64 where they are.
            target: Labels (N, K) in [0, 1].
            **kwargs: Further arguments of the loss, as the head gives them.

        Returns:
            Tensor: A scalar.
        """
        # Without it the loss would be a mean over the classes already.
        kwargs.setdefault('avg_factor', len(logits))
        return self.loss(upcast(logits), target, **kwargs) / logits.size(1)
