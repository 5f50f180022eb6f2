"""Binary cross-entropy weighted by inverse class frequency."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .base import ClassStatisticsLoss


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
