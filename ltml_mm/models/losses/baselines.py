"""Losses of others for long-tailed recognition, to compare LTML with."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from mmpretrain.registry import MODELS as PRETRAIN
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics

from .base import ClassStatisticsLoss, sigmoid_focal, upcast


@MODELS.register_module()
class ReweightedBCELoss(ClassStatisticsLoss):
    """Re-weighting (RW): a mean over the batch and the K classes.

    Positives and negatives of class k weigh N / n_k, normalised to a mean of
    1 over the classes (N cancels out), so that the learning rate of the
    plain cross-entropy fits.

    Args:
        num_classes: K.
        loss_weight: Factor of the loss.
    """

    divides_by_counts = True

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        weight = 1 / self.class_statistics()[0].to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, target, weight / weight.mean(), reduction='none'
        )


@MODELS.register_module()
class MultiLabelLDAMLoss(ClassStatisticsLoss):
    r"""LDAM for multi-label targets: a mean over the batch and the K classes.

    Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss*, NeurIPS 2019, defines a softmax loss; this is our reading
    of it with K sigmoids: binary cross-entropy with a margin on the positives,

    .. math::
        \mathrm{BCE}(s\,(z_k - y_k \Delta_k), y_k),\quad
        \Delta_k = \Delta_{max} (n_{min} / n_k)^{1/4}

    Args:
        num_classes: K.
        max_margin: Margin of the rarest class, in units of the logits.
        scale: Factor s of the shifted logits.
        loss_weight: Factor of the loss.
    """

    divides_by_counts = True

    def __init__(
        self,
        num_classes: int,
        max_margin: float = 0.5,
        scale: float = 30.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, loss_weight)
        self.max_margin = max_margin
        self.scale = scale

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        counts = self.class_statistics()[0].to(logits.dtype)
        margins = self.max_margin * (counts.min() / counts) ** 0.25
        return F.binary_cross_entropy_with_logits(
            self.scale * (logits - target * margins), target, reduction='none'
        )


@MODELS.register_module()
class ClassBalancedFocalLoss(ClassStatisticsLoss):
    r"""Class-balanced focal loss: a mean over the batch and the K classes.

    Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*,
    CVPR 2019, in the multi-label form of Wu et al., *Distribution-Balanced
    Loss*, ECCV 2020 (there called ``average_w``): all K entries of an image,
    positive or negative, weigh the mean weight of its positives,

    .. math::
        w_k = \frac{1 - \beta}{1 - \beta^{n_k}},\quad
        w = \frac{\sum_k y_k w_k}{\sum_k y_k}

    An image without a label, for which the paper has no rule, gets the mean
    over all classes.

    Args:
        num_classes: K.
        beta: Effective-number parameter in [0, 1); 0 weighs nothing.
        gamma: Focusing exponent.
        loss_weight: Factor of the loss. The class weights lie between
            1 - beta and 1 and are not normalised.

    Raises:
        ValueError: ``beta`` is not in [0, 1).
    """

    divides_by_counts = True

    def __init__(
        self,
        num_classes: int,
        beta: float = 0.9,
        gamma: float = 2.0,
        loss_weight: float = 1.0,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f'beta must be in [0, 1), got {beta!r}')
        super().__init__(num_classes, loss_weight)
        self.beta = beta
        self.gamma = gamma

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        counts = self.class_statistics()[0].to(logits.dtype)
        weights = (1 - self.beta) / (1 - self.beta**counts)
        labels = target.sum(dim=1, keepdim=True)
        # 1 stands in for a sum that is not used: no 0 / 0 in either direction.
        mean = (target * weights).sum(dim=1, keepdim=True) / labels.where(
            labels > 0, labels.new_ones(())
        )
        image_weight = mean.where(labels > 0, weights.mean())
        return image_weight * sigmoid_focal(logits, target, self.gamma)


@MODELS.register_module()
class DistributionBalancedLoss(ClassStatisticsLoss):
    r"""DB-Focal: a mean over the batch and the K classes.

    Wu et al., *Distribution-Balanced Loss for Multi-Label Classification in
    Long-Tailed Datasets*, ECCV 2020 (arXiv 2007.09654); meant for class-aware
    sampling. The re-balanced weight undoes what that repeats too often,

    .. math::
        P^C_k = \frac{1}{K n_k},\quad
        P^I = \frac{1}{K} \sum_{j: y_j = 1} \frac{1}{n_j},\quad
        r_k = P^C_k / P^I,\quad
        \hat r_k = \alpha + s(\beta (r_k - \mu));

    an image without a label gets r = 1. It weighs a focal loss of
    :math:`z'_k = z_k - \kappa \log(N / n_k - 1)`: a rare class's logit is
    lowered in the loss, the network need not learn that the class is rare,
    and inference uses the plain logit. The negatives' loss is
    :math:`FL(\lambda z') / \lambda`: their gradient fades sooner once their
    logit is below zero.

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
        counts = counts.to(logits.dtype)
        image = (target / counts).sum(dim=1, keepdim=True)
        # 1 stands in for a sum that is not used: no division by 0.
        ratio = 1 / counts / image.where(image > 0, image.new_ones(()))
        ratio = ratio.where(image > 0, ratio.new_ones(()))
        weight = self.alpha + torch.sigmoid(self.beta * (ratio - self.mu))

        shifted = logits - self.kappa * torch.log(num_images / counts - 1)
        ones, zeros = torch.ones_like(target), torch.zeros_like(target)
        positive = sigmoid_focal(shifted, ones, self.gamma)
        negative = sigmoid_focal(self.neg_scale * shifted, zeros, self.gamma)
        loss = target * positive + (1 - target) * negative / self.neg_scale
        return weight * loss

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


@MODELS.register_module()
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
        self.loss = PRETRAIN.build(loss)

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
