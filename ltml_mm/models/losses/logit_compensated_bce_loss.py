"""Binary cross-entropy with class weights and logit compensation."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmengine.dist import all_reduce
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .base import ClassStatisticsLoss

Compensation = Literal['learnable', 'statistics', 'none']

# Compensation terms and where they start: the identity.
START = {'pos_scale': 1.0, 'pos_bias': 0.0, 'neg_scale': 1.0, 'neg_bias': 0.0}
MOMENTUM = 0.1


@MODELS.register_module()
class LogitCompensatedBCELoss(ClassStatisticsLoss):
    r"""Classification loss of LTML, a mean over the batch and the K classes.

    Guo and Wang, *Long-Tailed Multi-Label Visual Recognition by
    Collaborative Training on Uniform and Re-balanced Samplings*, CVPR 2021.

    .. math::
        -w_k [y_k \log s(z_k \sigma^p_k + \mu^p_k)
              + (1 - y_k) \log(1 - s(z_k \sigma^n_k + \mu^n_k))],\quad
        w_k = y_k \exp(1 - n_k / N) + (1 - y_k) \exp(n_k / N)

    Compensation needs the labels, so it exists in the loss only: inference
    uses plain logits.

    It can replace the loss of any MMPretrain multi-label head; there
    ``num_classes`` has to be written out.

    Args:
        compensation: ``'learnable'``: ``pos_scale``, ``pos_bias``,
            ``neg_scale`` and ``neg_bias`` are parameters of shape (K,).
            ``'statistics'``: they are buffers instead, the running standard
            deviation and mean of the positives' (label > 0.5) and the
            negatives' logits over all ranks, with momentum 0.1 and without
            a gradient. They move in training mode only; a class unseen in
            the batch keeps its values, and one seen a single time keeps its
            scale, because one value has no spread. ``'none'``: plain logits.
        weighting: Whether positives weigh exp(1 - n_k/N) and negatives
            exp(n_k/N); needs the class counts of the training set, which
            ``ClassStatisticsHook`` fills in.
        num_classes: K; may be left out only where neither compensation nor
            weighting needs it. The two-branch classifier fills it in.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: ``compensation`` is unknown, or ``num_classes`` missing.

    Examples:
        >>> loss = LogitCompensatedBCELoss('none', weighting=False)
        >>> loss(torch.zeros(2, 3), torch.ones(2, 3))
        tensor(0.6931)
    """

    pos_scale: Tensor
    pos_bias: Tensor
    neg_scale: Tensor
    neg_bias: Tensor

    def __init__(
        self,
        compensation: Compensation = 'learnable',
        weighting: bool = True,
        num_classes: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        if compensation not in get_args(Compensation):
            raise ValueError(
                f'compensation must be one of {get_args(Compensation)}, got '
                f'{compensation!r}'
            )
        if num_classes is None and (weighting or compensation != 'none'):
            raise ValueError(
                'LogitCompensatedBCELoss needs num_classes, the number of '
                "classes K, unless compensation='none' and weighting=False"
            )
        super().__init__(num_classes, loss_weight)
        self.compensation = compensation
        self.weighting = weighting
        if num_classes is not None and compensation != 'none':
            for name, value in START.items():
                start = torch.full((num_classes,), value)
                if compensation == 'learnable':
                    self.register_parameter(name, nn.Parameter(start))
                else:
                    self.register_buffer(name, start)

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry, see the base class."""
        if self.compensation == 'statistics' and self.training:
            self._update_statistics(logits.detach(), target)
        terms = self._compensation_terms(logits.dtype)
        # logsigmoid stays exact where the sigmoid rounds to 0 or 1.
        log_pos = F.logsigmoid(logits * terms['pos_scale'] + terms['pos_bias'])
        log_neg = F.logsigmoid(
            -(logits * terms['neg_scale'] + terms['neg_bias'])
        )
        loss = -(target * log_pos + (1 - target) * log_neg)
        if not self.weighting:
            return loss
        counts, num_images = self.class_statistics()
        frequencies = counts.to(logits.dtype) / num_images
        positive = target * torch.exp(1 - frequencies)
        return (positive + (1 - target) * torch.exp(frequencies)) * loss

    def _compensation_terms(self, dtype: torch.dtype) -> dict[str, Any]:
        if self.compensation == 'none':
            return START
        terms = {name: getattr(self, name).to(dtype) for name in START}
        if self.compensation == 'statistics':
            # The next update writes in place, maybe before this backward.
            terms = {name: term.clone() for name, term in terms.items()}
        return terms

    @torch.no_grad()
    def _update_statistics(self, logits: Tensor, target: Tensor) -> None:
        positive = target > 0.5
        masks = torch.stack([positive, ~positive]).double()
        # Double precision: the variance is a difference of large numbers.
        values = logits.double()
        powers = torch.stack([values**power for power in range(3)])
        sums = torch.einsum('snk,pnk->psk', masks, powers)
        all_reduce(sums)
        count, total, squares = sums
        mean = total / count.clamp(min=1)
        variance = squares / count.clamp(min=1) - mean.square()
        scale = variance.clamp(min=0).sqrt()
        for i, polarity in enumerate(('pos', 'neg')):
            self._move(f'{polarity}_bias', mean[i], count[i] >= 1)
            self._move(f'{polarity}_scale', scale[i], count[i] >= 2)

    def _move(self, name: str, value: Tensor, seen: Tensor) -> None:
        buffer = getattr(self, name)
        moved = torch.lerp(buffer, value.to(buffer.dtype), MOMENTUM)
        # A step that float16 overflowed in is skipped by the grad scaler;
        # it must not stay in a running average for ever.
        buffer.copy_(torch.where(seen & moved.isfinite(), moved, buffer))
