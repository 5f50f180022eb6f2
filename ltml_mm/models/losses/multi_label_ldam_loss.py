"""Label-distribution-aware margins for multi-label recognition."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .base import ClassStatisticsLoss


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
