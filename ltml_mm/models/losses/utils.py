"""What the losses share: precision, shapes and the mean over batch and K."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def upcast(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or as it is where it is float64.

    Half-precision logits overflow as soon as they are scaled or squared, and
    autocast does not protect products: every loss computes in float32.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def prepare(
    logits: Tensor, target: Tensor, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Checks the shapes of a loss's inputs and upcasts them.

    Args:
        logits: Raw scores of shape (N, K), any float dtype.
        target: Labels in [0, 1] of the same shape, any dtype.
        num_classes: The K that is expected, where it is known.

    Returns:
        tuple[Tensor, Tensor]: Both as float32, or float64 where the logits
        are.

    Raises:
        ValueError: The shapes are not (N, K), or differ.
    """
    if logits.dim() != 2 or logits.shape != target.shape:
        raise ValueError(
            'logits and target must both have the shape (N, K), got '
            f'{tuple(logits.shape)} and {tuple(target.shape)}'
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(
            f'the loss was built with num_classes={num_classes}, but the '
            f'logits have {logits.shape[1]} classes'
        )
    logits = upcast(logits)
    return logits, target.to(logits.dtype)


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


def mean_over_batch_and_classes(
    loss: Tensor,
    weight: Tensor | None = None,
    avg_factor: float | None = None,
) -> Tensor:
    """Averages a loss over the batch **and** the K classes.

    MMPretrain's multi-label losses sum over K and divide by the batch only,
    which makes them K times larger.

    Args:
        loss: Loss of every entry, of shape (N, K).
        weight: Weight of every image, of shape (N,).
        avg_factor: What to divide the sum over the batch by; N by default.

    Returns:
        Tensor: A scalar.

    Raises:
        ValueError: ``weight`` is not one value per image.
    """
    if weight is not None:
        if weight.shape != loss.shape[:1]:
            raise ValueError(
                f'weight must hold one value for each of {loss.shape[0]} '
                f'images, got the shape {tuple(weight.shape)}'
            )
        loss = loss * weight.to(loss.dtype)[:, None]
    if avg_factor is None:
        return loss.mean()
    return loss.mean(dim=1).sum() / avg_factor
