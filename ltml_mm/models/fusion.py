"""The average of the branches at test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FUSE_OPTIONS = ('logits', 'probs')


def check_fuse(value: str) -> str:
    """Returns the option if it is one.

    Raises:
        ValueError: It is none of ``FUSE_OPTIONS``.
    """
    if value not in FUSE_OPTIONS:
        raise ValueError(f'fuse must be one of {FUSE_OPTIONS}, got {value!r}')
    return value


def fuse_scores(logits: Sequence[Tensor], fuse: str) -> Tensor:
    """Averages the branches and returns probabilities.

    Args:
        logits: Logits of one shape, a tensor for each branch or view.
        fuse: ``'logits'`` averages the logits, ``'probs'`` their sigmoids.

    Returns:
        Tensor: float32 of that shape, in [0, 1].
    """
    stacked = torch.stack(tuple(logits)).float()
    if fuse == 'logits':
        return stacked.mean(0).sigmoid()
    return stacked.sigmoid().mean(0)


def fuse_logits(logits: Sequence[Tensor], fuse: str) -> Tensor:
    """Averages the branches and returns the logits of the average.

    Args:
        logits: Logits of one shape, a tensor for each branch or view.
        fuse: See :func:`fuse_scores`.

    Returns:
        Tensor: Of that shape; its sigmoid is the fused score.
    """
    stacked = torch.stack(tuple(logits))
    if fuse == 'logits':
        return stacked.mean(0)
    return torch.logit(stacked.float().sigmoid().mean(0))
