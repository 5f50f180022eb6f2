"""Focal loss weighted by the effective number of samples."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor

from .base import ClassStatisticsLoss, sigmoid_focal


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
