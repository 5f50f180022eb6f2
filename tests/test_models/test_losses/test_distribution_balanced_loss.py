from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import DistributionBalancedLoss
from ltml_mm.models.losses.distribution_balanced_loss import (
    class_prior_bias,
    rebalanced_weights,
)

COUNTS = (60, 12, 3)
N = 100
LOGITS = torch.tensor(
    [[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.1, 0.4]],
    dtype=torch.float64,
)
TARGET = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
NEUTRAL = {
    'alpha': 0.5,
    'beta': 0.0,
    'neg_scale': 1.0,
    'kappa': 0.0,
    'gamma': 0.0,
    'loss_weight': 1.0,
}


def make_loss(counts=COUNTS, **kwargs):
    loss = DistributionBalancedLoss(num_classes=3, **kwargs)
    loss.set_class_statistics(ClassStatistics(counts, N))
    return loss


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ('mu', 'neg_scale'), [(0.3, 5.0), (0.2, 2.0)], ids=['voc', 'coco']
)
def test_equals_a_loop_with_the_equations_of_the_paper(mu, neg_scale):
    expected = 0.0
    for z_row, y_row in zip(LOGITS.tolist(), TARGET.tolist(), strict=True):
        positives = [k for k in range(3) if y_row[k]]
        p_image = sum(1 / COUNTS[k] for k in positives) / 3
        for k in range(3):
            r = (1 / COUNTS[k]) / 3 / p_image if positives else 1.0
            weight = 0.1 + sigmoid(10 * (r - mu))
            prior = COUNTS[k] / N
            nu = -0.05 * -math.log(1 / prior - 1)
            if y_row[k]:
                p = sigmoid(z_row[k] - nu)
                term = -((1 - p) ** 2) * math.log(p)
            else:
                p = sigmoid(neg_scale * (z_row[k] - nu))
                term = -(p**2) * math.log(1 - p) / neg_scale
            expected += weight * 2 * term
    loss = make_loss(mu=mu, neg_scale=neg_scale)
    assert loss(LOGITS, TARGET).item() == pytest.approx(expected / 9)


def test_neutral_options_give_plain_bce():
    torch.testing.assert_close(
        make_loss(**NEUTRAL)(LOGITS, TARGET),
        F.binary_cross_entropy_with_logits(LOGITS, TARGET),
    )


def test_weights_are_equal_for_a_single_positive_of_equal_classes():
    # r = 1 everywhere: the class is drawn as often as its image.
    weights = rebalanced_weights(torch.eye(3), torch.tensor([9, 9, 9]))
    expected = 0.1 + sigmoid(10 * 0.7)
    torch.testing.assert_close(weights, torch.full((3, 3), expected))


def test_a_frequent_class_beside_a_rare_one_weighs_less():
    target = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    weights = rebalanced_weights(target, torch.tensor(COUNTS))
    assert weights[0, 0] < weights[0, 2]
    assert weights[0, 0] < weights[1, 0]


def test_the_prior_bias_minimises_the_cross_entropy():
    counts = torch.tensor(COUNTS)
    bias = class_prior_bias(counts, N, torch.float64)
    torch.testing.assert_close(bias.sigmoid(), counts.double() / N)


def test_negatives_below_zero_are_tolerated():
    """A large lambda takes their gradient away sooner than BCE does."""
    logits = torch.full((1, 3), -1.0, requires_grad=True)
    gradients = []
    for neg_scale in (1.0, 5.0):
        loss = make_loss(**{**NEUTRAL, 'neg_scale': neg_scale})
        (gradient,) = torch.autograd.grad(
            loss(logits, torch.zeros(1, 3)), logits
        )
        gradients.append(gradient.sum().item())
    assert 0 < gradients[1] < gradients[0] / 10


def test_gradients():
    target = torch.rand(
        3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    loss = make_loss()
    assert torch.autograd.gradcheck(
        lambda z: loss(z, target), LOGITS.clone().requires_grad_()
    )


def test_bad_options_and_counts():
    with pytest.raises(ValueError, match='must be positive, got 0'):
        DistributionBalancedLoss(num_classes=3, neg_scale=0)
    with pytest.raises(ValueError, match=r'negatives of every class.*\[1\]'):
        make_loss((60, N, 3))
