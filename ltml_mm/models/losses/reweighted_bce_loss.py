"""Binary cross-entropy weighted by inverse class frequency."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .base import ClassStatisticsLoss, prepare


def reweighted_bce(
    logits: Tensor, target: Tensor, class_counts: Tensor
) -> Tensor:
    """Binary cross-entropy with one weight per class, not reduced.

    Args:
        logits: Raw scores of shape (N, K); computed in float32, or in
            float64 where they are.
        target: Labels in [0, 1] of shape (N, K), hard or soft.
        class_counts: n_k of shape (K,), none of them 0.

    Returns:
        Tensor: The loss of every entry, of shape (N, K). Positives and
        negatives of class k weigh N / n_k, divided by its mean over the
        classes (N cancels out).

    Raises:
        ValueError: The shapes are not (N, K), or differ.
    """
    logits, target = prepare(logits, target)
    weight = 1 / class_counts.to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    return bce * (weight / weight.mean())


@MODELS.register_module()
class ReweightedBCELoss(ClassStatisticsLoss):
    """Re-weighting (RW): a mean over the batch and the K classes.

    Class k weighs N / n_k, normalised to a mean of 1 over the classes, so
    that the learning rate of the plain cross-entropy fits.

    Args:
        num_classes: K.
        loss_weight: Factor of the loss.
    """

    divides_by_counts = True

    def __init__(self, num_classes: int, loss_weight: float = 1.0) -> None:
        super().__init__(num_classes, loss_weight)

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        return reweighted_bce(logits, target, self.class_statistics()[0])
