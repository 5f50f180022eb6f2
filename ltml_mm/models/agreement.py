"""How far the branches agree on the images of a step."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def branch_agreement(uniform: Tensor, rebalanced: Tensor) -> dict[str, Tensor]:
    """Compares the logits of both branches for the same images.

    For the log alone: without gradient, whatever the consistency loss is
    and weighs, and under names without ``loss``, which MMEngine logs but
    does not add to the loss.

    Args:
        uniform (Tensor): Raw logits (N, K) of the uniform branch.
        rebalanced (Tensor): Those of the re-balanced branch.

    Returns:
        dict[str, Tensor]: Scalars, float32 under mixed precision too:

        - ``agreement/rms_difference``: the root of the mean squared
          difference over images and classes, in logits; 0 where the
          branches are equal.
        - ``agreement/correlation``: Pearson's correlation over the images,
          for each class, averaged over the classes; 1 where every class
          ranks and spaces the images alike, whatever the scale. A class
          with equal logits for all images counts as 0.
    """
    u, r = uniform.float(), rebalanced.float()
    # Within a class: over all logits together the classes' different levels,
    # which both branches share, would hide all else.
    du, dr = _centred(u), _centred(r)
    scale = du.square().sum(0).sqrt() * dr.square().sum(0).sqrt()
    smallest = torch.finfo(scale.dtype).tiny
    return {
        'agreement/rms_difference': (u - r).square().mean().sqrt(),
        'agreement/correlation': (
            (du * dr).sum(0) / scale.clamp_min(smallest)
        ).mean(),
    }


def _centred(logits: Tensor) -> Tensor:
    # From the first image on: equal logits give 0, not a rounding error.
    shifted = logits - logits[0]
    return shifted - shifted.mean(0)
