"""What was tried for the recipe and left out, as registered parts.

``custom_imports`` with the name of this file, its folder in ``PYTHONPATH``,
lets a config name them; candidates.sh compares each with the recipe.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmpretrain.models.losses.asymmetric_loss import asymmetric_loss
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ltml_mm.engine.hooks.resume_state import unwrap_model
from ltml_mm.models import CollaborativeTwoBranchClassifier
from ltml_mm.models.fork.branches import BRANCHES, Branches
from ltml_mm.models.losses import (
    CrossBranchConsistencyLoss,
    LogitCompensatedBCELoss,
)
from ltml_mm.models.losses.base import ClassStatisticsLoss, upcast
from ltml_mm.models.streams import fuse_logits


@MODELS.register_module()
class PairwiseCompensatedBCELoss(LogitCompensatedBCELoss):
    r"""The loss of LTML and a term over pairs of images of each class.

    With N_k and P_k the log-sum-exp of a class's logits over the batch's
    negatives and of the negated ones over its positives, a mean over the
    classes, by ``pairs``:

    - ``'two_way'``: softplus(N_k + P_k) where a batch holds both, the
      class-wise half of Kobayashi, *Two-way Multi-Label Loss*, CVPR 2023, at
      a temperature of 1;
    - ``'dr'``: log(1 + exp(N_k + P_k) + exp(N_k)), Lin et al.,
      *Distributionally Robust Loss*, ECCV 2024, both scales 1.

    Args:
        num_classes: K.
        pairs: Which term.
        pair_weight: Its factor.
        **kwargs: Those of :class:`LogitCompensatedBCELoss`.
    """

    def __init__(
        self,
        num_classes: int,
        pairs: Literal['two_way', 'dr'],
        pair_weight: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        self.pair_term = dict(two_way=self.two_way, dr=self.dr)[pairs]
        self.pair_weight = pair_weight

    def forward(self, logits: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Computes the loss of logits and labels (N, K), a scalar."""
        loss = super().forward(logits, target, **kwargs)
        term = self.pair_term(upcast(logits), target > 0.5)
        return loss + self.pair_weight * term.mean()

    def two_way(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the term (K,) of logits and bool labels (N, K)."""
        pairs = _log_sum(logits, ~positive) + _log_sum(-logits, positive)
        return F.softplus(pairs) * (positive.any(0) & ~positive.all(0))

    def dr(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the term (K,) of logits and bool labels (N, K)."""
        negatives = _log_sum(logits, ~positive)
        pairs = negatives + _log_sum(-logits, positive)
        return F.softplus(torch.logaddexp(pairs, negatives))


def _log_sum(values: Tensor, chosen: Tensor) -> Tensor:
    # Not -inf: a class without a chosen image must have a gradient of 0.
    least = torch.finfo(values.dtype).min / 4
    return values.masked_fill(~chosen, least).logsumexp(0)


@MODELS.register_module()
class WeightedAsymmetricLoss(ClassStatisticsLoss):
    """ASL with the class weights w_k of LTML, as in CheXFusion (2023).

    Its exponents are 0 and 4, its margin 0.05: ASL's own.
    """

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        counts, images = self.class_statistics()
        share = counts.to(logits.dtype) / images
        weight = target * (1 - share).exp() + (1 - target) * share.exp()
        return weight * asymmetric_loss(
            logits, target, gamma_pos=0.0, reduction='none'
        )


@MODELS.register_module()
class FusedTargetConsistencyLoss(CrossBranchConsistencyLoss):
    """Draws each branch to the mean of both, which is held fixed."""

    def forward(self, own: Tensor, crossed: Tensor) -> Tensor:
        """Computes the loss of both branches' logits (N, K), a scalar."""
        mean = ((upcast(own) + upcast(crossed)) / 2).detach()
        return super().forward(mean, own) + super().forward(mean, crossed)


@MODELS.register_module()
class EMATeacherClassifier(CollaborativeTwoBranchClassifier):
    """Draws both branches to a teacher, the running average of the network.

    The teacher is in no checkpoint: a resumed training starts it anew.

    Args:
        *args: Those of :class:`CollaborativeTwoBranchClassifier`.
        momentum: The part of each step's weights in the average.
        **kwargs: As ``args``.
    """

    def __init__(
        self, *args: Any, momentum: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.momentum = momentum
        self.student: dict[str, Tensor] = {}
        # In a list: no module of the network.
        self.teacher: list[ExponentialMovingAverage] = []

    def branch_logits(self, inputs: Tensor) -> dict[str, Tensor]:
        """Computes the logits (N, K) of each branch; loss() reads them."""
        logits = super().branch_logits(inputs)
        if self.training:
            self.student = logits
        return logits

    def loss(
        self, inputs: dict[str, Tensor], data_samples: dict[str, list]
    ) -> dict[str, Tensor]:
        """Computes the terms of the loss, see the base class."""
        if not self.teacher:
            average = ExponentialMovingAverage(self, self.momentum)
            self.teacher.append(average)
        (teacher,) = self.teacher
        # The weights that the last step has left.
        teacher.update_parameters(self)
        losses = super().loss(inputs, data_samples)
        # Nothing of a graph may stay behind: it cannot be copied.
        student, self.student = self.student, {}
        images = torch.cat([inputs[name] for name in BRANCHES])
        with torch.no_grad():
            known = teacher.module.branch_logits(images)
        target = fuse_logits([*known.values()], 'logits')
        # The loss is a mean over both streams here, a sum over them there.
        losses['loss_consistency'] = (
            2
            * torch.stack(
                [self.loss_consistency(target, z) for z in student.values()]
            ).sum()
        )
        return losses


@HOOKS.register_module()
class MergeEveryEpochHook(Hook):
    """Lets both branches go on from their average at each epoch's start."""

    @torch.no_grad()
    def before_train_epoch(self, runner: Runner) -> None:
        """Averages the weights of the branches, and their statistics."""
        model: Any = unwrap_model(runner.model)
        if not runner.epoch:
            return
        parts = [m for m in model.modules() if isinstance(m, Branches)]
        pairs = [part.copies for part in parts]
        pairs.append(tuple(model.heads.values()))
        for copies in pairs:
            first, second = (copy.state_dict().values() for copy in copies)
            for own, other in zip(first, second, strict=True):
                if own.is_floating_point():
                    own.lerp_(other, 0.5)
                    other.copy_(own)
