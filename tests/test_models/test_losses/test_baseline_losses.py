"""The losses of the baselines, against their papers' equations."""

from __future__ import annotations

import math

import pytest
import torch
from mmpretrain.models.losses import FocalLoss
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import (
    ClassBalancedFocalLoss,
    DistributionBalancedLoss,
    LogitCompensatedBCELoss,
    MultiLabelLDAMLoss,
    ReweightedBCELoss,
)

BASELINES = [
    *(ClassBalancedFocalLoss, DistributionBalancedLoss, MultiLabelLDAMLoss),
    ReweightedBCELoss,
]
LOSSES = [*BASELINES, LogitCompensatedBCELoss]
# Fourth roots of 1, 16 and 81: margins of 0.5, 0.25 and 0.5 / 3.
COUNTS = (81, 16, 1)
N = 100
LOGITS = torch.tensor(
    [[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.1, 0.4]], dtype=torch.float64
)
TARGET = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)


def make_loss(loss_type, counts=COUNTS, **kwargs):
    loss = loss_type(num_classes=3, **kwargs)
    loss.set_class_statistics(ClassStatistics(counts, N))
    return loss


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(z, y, scale=1):
    p = sigmoid(z if y else -scale * z)
    return -((1 - p) ** 2) * math.log(p) / (1 if y else scale)


def class_balanced_focal(z, y, k, labels):
    weights = [0.1 / (1 - 0.9**n) for n in COUNTS]
    chosen = [weights[j] for j in labels] or weights
    return sum(chosen) / len(chosen) * focal(z, y)


def distribution_balanced(z, y, k, labels, mu=0.3, scale=5):
    p_image = sum(1 / COUNTS[j] for j in labels) / 3
    r = (1 / COUNTS[k]) / 3 / p_image if labels else 1.0
    nu = -0.05 * -math.log(N / COUNTS[k] - 1)
    weight = 0.1 + sigmoid(10 * (r - mu))
    return 2 * weight * focal(z - nu, y, scale)


def ldam(z, y, k, labels):
    margin = (0.5 / 3, 0.25, 0.5)[k]
    return math.log1p(math.exp(-30 * (z - margin) if y else 30 * z))


def reweighted(z, y, k, labels):
    mean = sum(1 / n for n in COUNTS) / 3
    return -math.log(sigmoid(z if y else -z)) / COUNTS[k] / mean


@pytest.mark.parametrize(
    ('loss', 'entry'),
    [
        (make_loss(ClassBalancedFocalLoss), class_balanced_focal),
        (make_loss(DistributionBalancedLoss), distribution_balanced),
        (
            make_loss(DistributionBalancedLoss, mu=0.2, neg_scale=2.0),
            lambda *args: distribution_balanced(*args, mu=0.2, scale=2),
        ),
        (make_loss(MultiLabelLDAMLoss), ldam),
        (make_loss(ReweightedBCELoss), reweighted),
    ],
    ids=['class-balanced', 'voc', 'coco', 'ldam', 'reweighted'],
)
def test_equals_a_loop_with_the_equations(loss, entry):
    expected = 0.0
    for row, target in zip(LOGITS.tolist(), TARGET.tolist(), strict=True):
        labels = [k for k in range(3) if target[k]]
        for k, (z, y) in enumerate(zip(row, target, strict=True)):
            expected += entry(z, y, k, labels)
    assert loss(LOGITS, TARGET).item() == pytest.approx(expected / 9)


NEUTRAL = dict(alpha=0.5, beta=0, neg_scale=1, kappa=0, gamma=0, loss_weight=1)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize(
    'loss',
    [
        make_loss(DistributionBalancedLoss, **NEUTRAL),
        make_loss(MultiLabelLDAMLoss, max_margin=0.0, scale=1.0),
        make_loss(ReweightedBCELoss, (7, 7, 7)),
        make_loss(ClassBalancedFocalLoss, beta=0.0, gamma=0.0),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_neutral_options_give_plain_bce(loss, soft):
    target = 0.8 * TARGET + 0.1 if soft else TARGET
    torch.testing.assert_close(
        loss(LOGITS, target),
        F.binary_cross_entropy_with_logits(LOGITS, target),
    )


def test_class_balanced_focal_of_equal_classes_is_the_stock_focal_loss():
    # alpha = 0.5 halves both polarities, and the stock loss sums over K.
    stock = FocalLoss(gamma=2.0, alpha=0.5, loss_weight=2 / 3)
    expected = stock(LOGITS, TARGET, avg_factor=len(LOGITS))
    unweighted = make_loss(ClassBalancedFocalLoss, beta=0.0)
    torch.testing.assert_close(unweighted(LOGITS, TARGET), expected)
    equal = make_loss(ClassBalancedFocalLoss, (5, 5, 5))
    factor = 0.1 / (1 - 0.9**5)
    torch.testing.assert_close(equal(LOGITS, TARGET), expected * factor)


@pytest.mark.parametrize(
    ('loss_type', 'options'),
    [(b, dict(scale=3.0) if 'LDAM' in b.__name__ else {}) for b in BASELINES],
)
def test_gradients(loss_type, options):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    loss = make_loss(loss_type, **options)
    assert torch.autograd.gradcheck(
        lambda z: loss(z, target), LOGITS.clone().requires_grad_()
    )


@pytest.mark.parametrize('loss_type', BASELINES)
def test_a_class_without_images_is_named(loss_type):
    loss = loss_type(num_classes=3)
    with pytest.raises(
        ValueError, match=rf'{loss_type.__name__} divides .*\[0, 2\]'
    ):
        loss.set_class_statistics(ClassStatistics((0, 5, 0), 9))
    assert loss.num_train_images == 0, 'half-set statistics'


@pytest.mark.parametrize('loss_type', LOSSES)
def test_a_copy_from_a_checkpoint_gives_the_same_loss(loss_type):
    loss, copy = make_loss(loss_type), loss_type(num_classes=3)
    with pytest.raises(ValueError, match='ClassStatisticsHook'):
        copy(LOGITS, TARGET)
    copy.load_state_dict(loss.state_dict())
    torch.testing.assert_close(copy(LOGITS, TARGET), loss(LOGITS, TARGET))


@pytest.mark.parametrize('loss_type', LOSSES)
def test_means_and_factors(loss_type):
    loss = make_loss(loss_type, loss_weight=3.0)
    value = loss(LOGITS, TARGET)
    repeated = LOGITS.repeat(5, 1), TARGET.repeat(5, 1)
    torch.testing.assert_close(loss(*repeated), value)
    torch.testing.assert_close(loss(LOGITS, TARGET, avg_factor=3), value)
    torch.testing.assert_close(loss(LOGITS, TARGET, avg_factor=6), value / 2)
    single = make_loss(loss_type, loss_weight=1.0)
    torch.testing.assert_close(value, 3 * single(LOGITS, TARGET))
    first = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(
        loss(LOGITS, TARGET, weight=first, avg_factor=1),
        loss(LOGITS[:1], TARGET[:1]),
    )
    with pytest.raises(ValueError, match='each of 3 images'):
        loss(LOGITS, TARGET, weight=torch.ones(3, 3))


@pytest.mark.parametrize(
    ('loss_type', 'options', 'message'),
    [
        (ClassBalancedFocalLoss, dict(beta=1.0), r'\[0, 1\), got 1.0'),
        (DistributionBalancedLoss, dict(neg_scale=0), 'be positive, got 0'),
        (
            DistributionBalancedLoss,
            dict(counts=(60, N, 3)),
            r'negatives of every class.*\[1\]',
        ),
    ],
)
def test_bad_options_and_counts(loss_type, options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(loss_type, **options)
