"""Base of the losses: shapes, precision, means and class counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics


def upcast(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or as it is where it is float64.

    Half-precision logits overflow as soon as they are scaled or squared, and
    autocast does not protect products: every loss computes in float32.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_shapes(first: Tensor, second: Tensor) -> None:
    """Raises a ValueError unless both tensors have one shape (N, K)."""
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            'a loss takes two tensors of the same shape (N, K), got '
            f'{tuple(first.shape)} and {tuple(second.shape)}'
        )


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Focal loss of both polarities, equally weighted, without reduction.

    ``y (1-p)^gamma (-log p) + (1-y) p^gamma (-log(1-p))`` with p = s(z), in
    log space: the power of an underflown probability has no finite gradient.

    Args:
        logits: Raw scores, float32 or float64.
        target: Labels in [0, 1] of a shape that broadcasts with them.
        gamma: Focusing exponent; 0 gives the binary cross-entropy.

    Returns:
        Tensor: The loss of every entry.
    """
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = -log_p * torch.exp(gamma * log_q)
    negative = -log_q * torch.exp(gamma * log_p)
    return target * positive + (1 - target) * negative


class ClassStatisticsLoss(nn.Module):
    """Holds the training set's class counts as buffers.

    They follow ``.to()``, DDP and the checkpoint as the buffers
    ``class_counts`` (int64, shape (K,)) and ``num_train_images`` (int64
    scalar, 0 until they are known). ``ClassStatisticsHook`` fills them in
    from the training data through :meth:`set_class_statistics`.

    A subclass implements :meth:`entries`, the loss of every entry.

    Args:
        num_classes: K. None leaves the buffers out, for a loss whose options
            need no statistics.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: ``num_classes`` is not a positive integer.
    """

    # Subclasses that divide by n_k set this.
    divides_by_counts = False

    class_counts: Tensor
    num_train_images: Tensor

    def __init__(
        self, num_classes: int | None, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if num_classes is not None and (
            not isinstance(num_classes, int) or num_classes < 1
        ):
            raise ValueError(
                f'num_classes must be a positive integer, got {num_classes!r}'
            )
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        # Noted here and not read from the buffer at each step, which would
        # wait for the GPU and break a compiled graph.
        self._statistics_known = False
        if num_classes is not None:
            counts = torch.zeros(num_classes, dtype=torch.int64)
            self.register_buffer('class_counts', counts)
            images = torch.zeros((), dtype=torch.int64)
            self.register_buffer('num_train_images', images)
            self.register_load_state_dict_post_hook(_note_statistics)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            logits: Raw scores of shape (N, K), any float dtype.
            target: Labels in [0, 1] of shape (N, K), hard or soft.
            weight: Weight of every image, of shape (N,).
            avg_factor: Divides the sum over the batch; N by default.

        Returns:
            Tensor: A scalar, the mean over the batch and the classes.

        Raises:
            ValueError: A shape does not fit, or the loss needs the class
                counts of the training set and they are not known.
        """
        check_shapes(logits, target)
        if self.num_classes not in (None, logits.shape[1]):
            raise ValueError(
                f'the loss was built with num_classes={self.num_classes}, '
                f'but the logits have {logits.shape[1]} classes'
            )
        logits = upcast(logits)
        loss = self.entries(logits, target.to(logits.dtype))
        if weight is not None:
            if weight.shape != loss.shape[:1]:
                raise ValueError(
                    f'weight must hold one value for each of {loss.shape[0]} '
                    f'images, got the shape {tuple(weight.shape)}'
                )
            loss = loss * weight.to(loss.dtype)[:, None]
        # A mean over the classes too, where MMPretrain's losses sum over them.
        if avg_factor is None:
            return self.loss_weight * loss.mean()
        return self.loss_weight * (loss.mean(dim=1).sum() / avg_factor)

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of every entry of logits and target, all (N, K)."""
        raise NotImplementedError

    def set_class_statistics(self, statistics: ClassStatistics) -> None:
        """Takes over the class counts n_k and the number of images N.

        Raises:
            ValueError: K differs from the loss's, the set is empty, or a
                count is one that the loss's formula cannot use.
        """
        if self.num_classes is None:
            return
        if statistics.num_classes != self.num_classes:
            raise ValueError(
                f'{type(self).__name__} was built with num_classes='
                f'{self.num_classes}, but the training set has '
                f'{statistics.num_classes} classes'
            )
        if statistics.num_images == 0:
            raise ValueError('the training set holds no image')
        self._check_statistics(statistics)
        counts = torch.tensor(statistics.counts, dtype=torch.int64)
        self.class_counts.copy_(counts)
        self.num_train_images.fill_(statistics.num_images)
        self._statistics_known = True

    def class_statistics(self) -> tuple[Tensor, Tensor]:
        """Returns the counts (K,) and N, both int64.

        Raises:
            ValueError: They have not been set.
        """
        if not self._statistics_known:
            raise ValueError(
                f'{type(self).__name__} does not know the class counts of '
                "the training set; add dict(type='ClassStatisticsHook') to "
                'custom_hooks in the config, or call set_class_statistics() '
                'yourself'
            )
        return self.class_counts, self.num_train_images

    def _check_statistics(self, statistics: ClassStatistics) -> None:
        if not self.divides_by_counts:
            return
        empty = [k for k, n in enumerate(statistics.counts) if n == 0]
        if empty:
            raise ValueError(
                f'{type(self).__name__} divides by the class counts, but no '
                f'training image shows the classes with the indices {empty}; '
                'leave these classes out or take another loss'
            )


def _note_statistics(module: ClassStatisticsLoss, _: object) -> None:
    module._statistics_known = bool(module.num_train_images > 0)
