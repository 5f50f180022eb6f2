"""Means over the classes of losses that sum over them."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@ROOT_MODELS.register_module()
class ClassMeanLoss(nn.Module):
    """A multi-label loss of MMPretrain as a mean over the K classes.

    MMPretrain's multi-label losses sum over the classes and average over the
    images, so one learning rate means K times the step that it means for a
    loss that averages over both, as the losses of LTML do.

    Args:
        loss (dict): Config of a loss that sums over the classes.

    Examples:
        >>> import torch
        >>> loss = ClassMeanLoss(dict(type='CrossEntropyLoss',
        ...                           use_sigmoid=True))
        >>> zeros = torch.zeros(2, 8)
        >>> loss(zeros, zeros, avg_factor=2)
        tensor(0.6931)
    """

    def __init__(self, loss: dict) -> None:
        super().__init__()
        self.loss = MODELS.build(loss)

    def forward(self, logits: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Computes the loss.

        Args:
            logits: Logits (N, K).
            target: Labels (N, K).
            **kwargs: What the loss takes further, as the head gives it.

        Returns:
            Tensor: The wrapped loss over K.
        """
        return self.loss(logits, target, **kwargs) / logits.size(1)
