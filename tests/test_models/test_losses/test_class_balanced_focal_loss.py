from __future__ import annotations

import math

import pytest
import torch
from mmpretrain.models.losses import FocalLoss

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import ClassBalancedFocalLoss
from ltml_mm.models.losses.class_balanced_focal_loss import (
    class_balanced_focal,
)

COUNTS = (60, 12, 3)
LOGITS = torch.tensor(
    [[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.1, 0.4]],
    dtype=torch.float64,
)
TARGET = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)


def focal(z, y, gamma=2):
    p = 1 / (1 + math.exp(-z if y else z))
    return -((1 - p) ** gamma) * math.log(p)


def test_equals_values_written_out():
    weights = [0.1 / (1 - 0.9**n) for n in COUNTS]
    images = [
        (weights[0] + weights[2]) / 2,
        weights[1],
        sum(weights) / 3,  # no label
    ]
    expected = sum(
        images[i] * focal(LOGITS[i, k].item(), TARGET[i, k].item())
        for i in range(3)
        for k in range(3)
    )
    loss = ClassBalancedFocalLoss(num_classes=3)
    loss.set_class_statistics(ClassStatistics(COUNTS, 100))
    assert loss(LOGITS, TARGET).item() == pytest.approx(expected / 9)


def test_beta_zero_is_the_stock_focal_loss():
    # alpha = 0.5 halves both polarities, and the stock loss sums over K.
    stock = FocalLoss(gamma=2.0, alpha=0.5, loss_weight=2 / 3)
    torch.testing.assert_close(
        class_balanced_focal(
            LOGITS, TARGET, torch.tensor(COUNTS), beta=0.0
        ).mean(),
        stock(LOGITS, TARGET, avg_factor=len(LOGITS)),
    )


def test_equal_counts_give_a_constant_times_focal():
    loss = class_balanced_focal(LOGITS, TARGET, torch.tensor([5, 5, 5]))
    plain = class_balanced_focal(
        LOGITS, TARGET, torch.tensor([5, 5, 5]), beta=0.0
    )
    torch.testing.assert_close(loss, plain * 0.1 / (1 - 0.9**5))


def test_gradients():
    target = torch.rand(
        3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda z: class_balanced_focal(z, target, torch.tensor(COUNTS)),
        LOGITS.clone().requires_grad_(),
    )


def test_beta_of_one_is_refused():
    with pytest.raises(ValueError, match=r'\[0, 1\), got 1.0'):
        ClassBalancedFocalLoss(num_classes=3, beta=1.0)
