from __future__ import annotations

import math

import pytest
import torch
from mmengine.registry import MODELS

from ltml_mm.models.losses import CrossBranchConsistencyLoss


def make_logits(n=5, k=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n, k, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('on', ['logits', 'probs'])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_equals_a_loop(on, reduction):
    own, crossed = make_logits()
    expected = 0.0
    for row, other in zip(own.tolist(), crossed.tolist(), strict=True):
        for a, b in zip(row, other, strict=True):
            if on == 'probs':
                a, b = (1 / (1 + math.exp(-v)) for v in (a, b))
            expected += (a - b) ** 2
    expected /= 5 * (3 if reduction == 'mean' else 1)
    loss = CrossBranchConsistencyLoss(0.25, on, reduction)
    assert loss(own, crossed).item() == pytest.approx(expected / 4, rel=1e-12)


def test_default_is_a_tenth_of_the_mean_squared_error():
    own, crossed = make_logits()
    torch.testing.assert_close(
        MODELS.build({'type': 'CrossBranchConsistencyLoss'})(own, crossed),
        0.1 * torch.nn.functional.mse_loss(own, crossed),
    )


def test_sum_does_not_depend_on_the_batch_size():
    own, crossed = make_logits()
    loss = CrossBranchConsistencyLoss(reduction='sum')
    torch.testing.assert_close(
        loss(own.repeat(4, 1), crossed.repeat(4, 1)), loss(own, crossed)
    )


@pytest.mark.parametrize('on', ['logits', 'probs'])
def test_gradients_flow_into_both_arguments(on):
    own, crossed = (t.requires_grad_() for t in make_logits())
    loss = CrossBranchConsistencyLoss(on=on)
    assert torch.autograd.gradcheck(loss, (own, crossed))
    loss(own, crossed).backward()
    assert own.grad.norm() > 0
    assert crossed.grad.norm() > 0


def test_detach_holds_the_own_output_fixed():
    own, crossed = (t.requires_grad_() for t in make_logits())
    both = CrossBranchConsistencyLoss()(own, crossed)
    (expected,) = torch.autograd.grad(both, crossed)
    one_way = CrossBranchConsistencyLoss(detach=True)(own, crossed)
    torch.testing.assert_close(one_way, both)
    one_way.backward()
    assert own.grad is None
    torch.testing.assert_close(crossed.grad, expected)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'on': 'features'}, "got 'features'"),
        ({'reduction': 'none'}, "got 'none'"),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrossBranchConsistencyLoss(**kwargs)


def test_unlike_shapes_do_not_broadcast():
    with pytest.raises(ValueError, match=r'got \(2, 3\) and \(1, 3\)'):
        CrossBranchConsistencyLoss()(torch.zeros(2, 3), torch.zeros(1, 3))
