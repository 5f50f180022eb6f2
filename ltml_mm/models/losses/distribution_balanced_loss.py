"""Distribution-balanced focal loss."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ltml_mm.class_statistics import ClassStatistics

from .base import ClassStatisticsLoss, sigmoid_focal


def rebalanced_weights(
    target: Tensor,
    class_counts: Tensor,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.3,
) -> Tensor:
    r"""Weights that undo what class-aware sampling repeats too often.

    .. math::
        P^C_k = \frac{1}{K n_k},\quad
        P^I = \frac{1}{K} \sum_{j: y_j = 1} \frac{1}{n_j},\quad
        r_k = P^C_k / P^I,\quad
        \hat r_k = \alpha + s(\beta (r_k - \mu))

    Args:
        target: Labels in [0, 1] of shape (N, K), float.
        class_counts: n_k of shape (K,), none of them 0.
        alpha: Offset of the smoothed weight.
        beta: Slope of the smoothing.
        mu: Where the smoothing is centred.

    Returns:
        Tensor: The weight of every entry, positive or negative, of shape
        (N, K). An image without a label gets r = 1.
    """
    inverse = 1 / class_counts.to(target.dtype)
    image = (target * inverse).sum(dim=1, keepdim=True)
    # 1 stands in for a sum that is not used: no division by 0.
    ratio = inverse / image.where(image > 0, image.new_ones(()))
    ratio = ratio.where(image > 0, ratio.new_ones(()))
    return alpha + torch.sigmoid(beta * (ratio - mu))


def negative_tolerant_focal(
    logits: Tensor,
    target: Tensor,
    bias: Tensor | float = 0.0,
    neg_scale: float = 5.0,
    gamma: float = 2.0,
) -> Tensor:
    r"""Focal loss with negative-tolerant regularisation, not reduced.

    With :math:`z' = z + \mathrm{bias}` the positives' loss is
    :math:`FL(z')`, the negatives' :math:`FL(\lambda z') / \lambda`: a
    negative's gradient fades sooner once its logit is below zero.

    Args:
        logits: Raw scores z of shape (N, K), float32 or float64.
        target: Labels in [0, 1] of shape (N, K), float.
        bias: Offset of the logits, a number or of shape (K,).
        neg_scale: lambda; 1 treats both polarities alike.
        gamma: Focusing exponent, on the shifted and scaled logits.

    Returns:
        Tensor: The loss of every entry, of shape (N, K).
    """
    shifted = logits + bias
    ones, zeros = torch.ones_like(target), torch.zeros_like(target)
    positive = sigmoid_focal(shifted, ones, gamma)
    negative = sigmoid_focal(neg_scale * shifted, zeros, gamma) / neg_scale
    return target * positive + (1 - target) * negative


def class_prior_bias(
    class_counts: Tensor, num_images: Tensor | int, dtype: torch.dtype
) -> Tensor:
    """Logits of the class frequencies, -log(N / n_k - 1).

    Args:
        class_counts: n_k of shape (K,), between 1 and N - 1.
        num_images: N.
        dtype: Float type to compute in.

    Returns:
        Tensor: The bias that alone minimises the binary cross-entropy of
        every class, of shape (K,).
    """
    return -torch.log(num_images / class_counts.to(dtype) - 1)


@MODELS.register_module()
class DistributionBalancedLoss(ClassStatisticsLoss):
    r"""DB-Focal: a mean over the batch and the K classes.

    Wu et al., *Distribution-Balanced Loss for Multi-Label Classification in
    Long-Tailed Datasets*, ECCV 2020 (arXiv 2007.09654); meant for class-aware
    sampling. The product of :func:`rebalanced_weights` and
    :func:`negative_tolerant_focal`, with :math:`\nu_k = -\kappa b_k` from
    :func:`class_prior_bias` subtracted from the logits. So a rare class's
    logit is lowered in the loss, the network need not learn that the class
    is rare, and inference uses the plain logit.

    The defaults are the paper's for VOC-LT; its settings for COCO-LT are
    ``mu=0.2, neg_scale=2``. The authors' code divides the bias by
    ``neg_scale`` as well; write ``kappa=0.05 / 5`` for its value.

    Args:
        num_classes: K.
        alpha: Offset of the smoothed weight.
        beta: Slope of the smoothing.
        mu: Where the smoothing is centred.
        neg_scale: lambda of the negative-tolerant regularisation.
        kappa: Scale of the class bias.
        gamma: Focusing exponent.
        loss_weight: Factor of the loss, 2 in the paper's settings (the
            balance parameter of its focal loss).

    Raises:
        ValueError: ``neg_scale`` is not positive.
    """

    divides_by_counts = True

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.3,
        neg_scale: float = 5.0,
        kappa: float = 0.05,
        gamma: float = 2.0,
        loss_weight: float = 2.0,
    ) -> None:
        if neg_scale <= 0:
            raise ValueError(f'neg_scale must be positive, got {neg_scale!r}')
        super().__init__(num_classes, loss_weight)
        self.alpha = alpha
        self.beta = beta
        self.mu = mu
        self.neg_scale = neg_scale
        self.kappa = kappa
        self.gamma = gamma

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        counts, num_images = self.class_statistics()
        bias = class_prior_bias(counts, num_images, logits.dtype)
        return rebalanced_weights(
            target, counts, self.alpha, self.beta, self.mu
        ) * negative_tolerant_focal(
            logits, target, self.kappa * bias, self.neg_scale, self.gamma
        )

    def _check_statistics(self, statistics: ClassStatistics) -> None:
        super()._check_statistics(statistics)
        full = [
            k
            for k, n in enumerate(statistics.counts)
            if n == statistics.num_images
        ]
        if full:
            raise ValueError(
                'DistributionBalancedLoss needs negatives of every class, '
                'but all training images show the classes with the indices '
                f'{full}; leave these classes out, take another loss, or '
                "add num_train_images to the data's metainfo if it is missing"
            )
