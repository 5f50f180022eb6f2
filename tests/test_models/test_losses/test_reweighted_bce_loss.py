from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import ReweightedBCELoss
from ltml_mm.models.losses.reweighted_bce_loss import reweighted_bce

COUNTS = (50, 20, 4)


def make_inputs(soft=False):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    target = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    return logits, target if soft else target.round()


@pytest.mark.parametrize('soft', [False, True])
def test_equals_a_loop_with_weights_written_out(soft):
    logits, target = make_inputs(soft)
    # N / n_k = 2, 5, 25 for N = 100; their mean is 32 / 3
    weights = [2 * 3 / 32, 5 * 3 / 32, 25 * 3 / 32]
    expected = 0.0
    for row, labels in zip(logits.tolist(), target.tolist(), strict=True):
        for z, y, w in zip(row, labels, weights, strict=True):
            p = 1 / (1 + math.exp(-z))
            expected -= w * (y * math.log(p) + (1 - y) * math.log(1 - p))
    loss = ReweightedBCELoss(num_classes=3, loss_weight=2.0)
    loss.set_class_statistics(ClassStatistics(COUNTS, 100))
    assert loss(logits, target).item() == pytest.approx(2 * expected / 15)


def test_equal_counts_give_plain_bce():
    logits, target = make_inputs()
    torch.testing.assert_close(
        reweighted_bce(logits, target, torch.tensor([7, 7, 7])).mean(),
        F.binary_cross_entropy_with_logits(logits, target),
    )


def test_gradients():
    logits, target = make_inputs(soft=True)
    counts = torch.tensor(COUNTS)
    assert torch.autograd.gradcheck(
        lambda z: reweighted_bce(z, target, counts), logits.requires_grad_()
    )
