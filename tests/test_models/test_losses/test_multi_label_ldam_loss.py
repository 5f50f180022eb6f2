from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import MultiLabelLDAMLoss
from ltml_mm.models.losses.multi_label_ldam_loss import multi_label_ldam

# Fourth roots of 1, 16 and 81: margins of 0.5, 0.25 and 0.5 / 3.
COUNTS = (81, 16, 1)
MARGINS = (0.5 / 3, 0.25, 0.5)


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    logits = 0.2 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    target = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    return logits, target.round()


def test_equals_a_loop_with_margins_written_out():
    logits, target = make_inputs()
    expected = 0.0
    for row, labels in zip(logits.tolist(), target.tolist(), strict=True):
        for z, y, margin in zip(row, labels, MARGINS, strict=True):
            z = 30 * (z - margin) if y else -30 * z
            expected += math.log1p(math.exp(-z))
    loss = MultiLabelLDAMLoss(num_classes=3)
    loss.set_class_statistics(ClassStatistics(COUNTS, 100))
    assert loss(logits, target).item() == pytest.approx(expected / 15)


def test_without_margin_and_scale_is_bce():
    logits, target = make_inputs()
    torch.testing.assert_close(
        multi_label_ldam(
            logits, target, torch.tensor(COUNTS), max_margin=0.0, scale=1.0
        ).mean(),
        F.binary_cross_entropy_with_logits(logits, target),
    )


def test_gradients():
    logits, target = make_inputs()
    counts = torch.tensor(COUNTS)
    assert torch.autograd.gradcheck(
        lambda z: multi_label_ldam(z, target, counts, scale=3.0),
        logits.requires_grad_(),
    )
