"""Consistency of the two branches on the same image."""

from __future__ import annotations

from typing import Literal, get_args

from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import check_shapes, upcast

On = Literal['logits', 'probs']
Reduction = Literal['mean', 'sum']


@MODELS.register_module()
class CrossBranchConsistencyLoss(nn.Module):
    """Consistency loss of LTML, which holds the two branches together.

    Guo and Wang, CVPR 2021: both branches see every image; the squared
    difference of their logits is added to the classification losses.

    Args:
        loss_weight: Factor of the loss, lambda in the paper.
        on: ``'logits'`` or ``'probs'``.
        reduction: ``'mean'`` or ``'sum'`` over the K classes; the batch is
            averaged in both cases.
        detach: False lets gradients flow into both arguments, as in the
            method. True takes the branch's own output as a fixed target:
            it is the one that the labels supervise on this stream, so the
            crossed branch learns from it and not the other way round.

    Raises:
        ValueError: ``on`` or ``reduction`` is unknown.

    Examples:
        >>> import torch
        >>> loss = CrossBranchConsistencyLoss(loss_weight=0.5)
        >>> loss(torch.zeros(2, 3), torch.full((2, 3), 2.0))
        tensor(2.)
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        on: On = 'logits',
        reduction: Reduction = 'mean',
        detach: bool = False,
    ) -> None:
        super().__init__()
        if on not in get_args(On):
            raise ValueError(f'on must be one of {get_args(On)}, got {on!r}')
        if reduction not in get_args(Reduction):
            raise ValueError(
                f'reduction must be one of {get_args(Reduction)}, got '
                f'{reduction!r}'
            )
        self.loss_weight = loss_weight
        self.on = on
        self.reduction = reduction
        self.detach = detach

    def forward(self, own: Tensor, crossed: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            own: Logits (N, K) of the branch that the images are sampled for.
            crossed: Those of the other branch.

        Returns:
            Tensor: A scalar, float32, or float64 where the logits are.

        Raises:
            ValueError: The shapes are not (N, K), or differ.
        """
        check_shapes(own, crossed)
        own, crossed = upcast(own), upcast(crossed)
        if self.detach:
            own = own.detach()
        if self.on == 'probs':
            own, crossed = own.sigmoid(), crossed.sigmoid()
        mean = (own - crossed).square().mean()
        factor = own.shape[1] if self.reduction == 'sum' else 1
        return self.loss_weight * factor * mean
