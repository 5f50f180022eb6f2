from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmpretrain.models import MultiLabelLinearClsHead
from mmpretrain.structures import DataSample
from test_models.loss_reference import logit_compensated_bce
from torch.nn import functional as F  # noqa: N812

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import LogitCompensatedBCELoss
from ltml_mm.models.losses import logit_compensated_bce_loss as module

TERMS = ('pos_scale', 'pos_bias', 'neg_scale', 'neg_bias')
STATISTICS = ClassStatistics((775, 34, 4, 0), num_images=1142)
K = STATISTICS.num_classes


def make_inputs(n=6, soft=False, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, K, generator=generator, dtype=dtype)
    target = torch.rand(n, K, generator=generator, dtype=dtype)
    return logits, target if soft else (target > 0.5).to(dtype)


def make_loss(*args, **kwargs):
    loss = LogitCompensatedBCELoss(*args, num_classes=K, **kwargs)
    loss.set_class_statistics(STATISTICS)
    return loss


@pytest.mark.parametrize('soft', [False, True])
def test_equals_the_equation_entry_by_entry(soft):
    logits, target = make_inputs(soft=soft)
    loss = make_loss().double()
    rng = np.random.default_rng(0)
    terms = rng.uniform(0.5, 1.5, (4, K))
    for name, value in zip(TERMS, terms, strict=True):
        getattr(loss, name).data.copy_(torch.from_numpy(value))
    expected = logit_compensated_bce(
        logits.tolist(), target.tolist(), STATISTICS, terms
    )
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('soft', [False, True])
def test_without_weights_and_compensation_is_bce(soft):
    logits, target = make_inputs(soft=soft)
    loss = LogitCompensatedBCELoss('none', weighting=False)
    torch.testing.assert_close(
        loss(logits, target),
        F.binary_cross_entropy_with_logits(logits, target),
    )


@pytest.mark.parametrize('compensation', ['learnable', 'statistics'])
def test_compensation_starts_at_the_identity(compensation):
    logits, target = make_inputs()
    loss = make_loss(compensation).eval()
    torch.testing.assert_close(
        loss(logits, target), make_loss('none')(logits, target)
    )


def test_the_order_of_images_and_classes_does_not_matter():
    logits, target = make_inputs()
    loss = make_loss()
    order = torch.tensor([2, 0, 3, 1])
    permuted = LogitCompensatedBCELoss(num_classes=K)
    counts = tuple(STATISTICS.counts[k] for k in order)
    permuted.set_class_statistics(ClassStatistics(counts, 1142))
    torch.testing.assert_close(
        permuted(logits.flip(0)[:, order], target.flip(0)[:, order]),
        loss(logits, target),
    )


@pytest.mark.parametrize('soft', [False, True])
def test_gradients_of_logits_and_terms(soft):
    logits, target = make_inputs(n=3, soft=soft)
    loss = make_loss()
    terms = [torch.rand(K, dtype=torch.float64) + 0.5 for _ in TERMS]

    def function(z, *terms):
        named = dict(zip(TERMS, terms, strict=True))
        return torch.func.functional_call(loss, named, (z, target))

    inputs = [t.requires_grad_() for t in (logits, *terms)]
    assert torch.autograd.gradcheck(function, inputs)


def test_learnable_terms_are_parameters_per_class():
    loss = make_loss()
    assert {
        n: tuple(p.shape) for n, p in loss.named_parameters()
    } == dict.fromkeys(TERMS, (K,))
    logits, target = make_inputs(dtype=torch.float32)
    loss(logits, target).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())


def test_serves_as_the_loss_of_a_stock_head():
    head = MultiLabelLinearClsHead(
        num_classes=K,
        in_channels=5,
        loss={'type': 'LogitCompensatedBCELoss', 'num_classes': K},
    )
    head.loss_module.set_class_statistics(STATISTICS)
    feats = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    samples = [
        DataSample(metainfo={'num_classes': K}).set_gt_label(label)
        for label in ([0, 2], [1])
    ]
    target = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]])
    expected = make_loss()(head((feats,)), target)
    torch.testing.assert_close(head.loss((feats,), samples)['loss'], expected)


# --- compensation='statistics' -------------------------------------------


def test_statistics_follow_mean_and_deviation_of_each_polarity():
    loss = make_loss('statistics')
    state = {n: np.full(K, float('scale' in n)) for n in TERMS}
    for seed in range(3):
        logits, target = make_inputs(n=20, soft=True, seed=seed)
        loss(logits, target)
        for k in range(K):
            for polarity in ('pos', 'neg'):
                chosen = target[:, k] > 0.5
                chosen = chosen if polarity == 'pos' else ~chosen
                values = logits[chosen, k].numpy()
                for name, value in (
                    (f'{polarity}_scale', values.std()),
                    (f'{polarity}_bias', values.mean()),
                ):
                    state[name][k] = 0.9 * state[name][k] + 0.1 * value
    for name in TERMS:
        np.testing.assert_allclose(
            getattr(loss, name).numpy(), state[name], rtol=1e-5
        )


def test_statistics_of_unseen_and_single_values_stay():
    loss = make_loss('statistics')
    logits, _ = make_inputs(n=5)
    target = torch.zeros(5, K)
    target[0, 1] = 1
    target[:, 2] = 1
    loss(logits, target)
    # class 0 has no positive, class 1 one, class 2 no negative
    assert loss.pos_scale[0] == 1
    assert loss.pos_bias[0] == 0
    assert loss.pos_scale[1] == 1
    assert loss.pos_bias[1].item() == pytest.approx(logits[0, 1].item() / 10)
    assert loss.pos_scale[2] != 1
    assert loss.neg_scale[2] == 1
    assert loss.neg_bias[2] == 0


def test_statistics_are_buffers_that_only_training_moves():
    loss = make_loss('statistics')
    assert not list(loss.parameters())
    assert set(TERMS) < set(loss.state_dict())
    logits, target = make_inputs()
    before = loss.pos_bias.clone()
    loss.eval()(logits, target)
    assert torch.equal(loss.pos_bias, before)
    loss.train()(logits, target)
    assert not torch.equal(loss.pos_bias, before)


def test_statistics_survive_a_second_forward_before_backward():
    loss = make_loss('statistics')
    logits, target = make_inputs()
    logits.requires_grad_()
    (loss(logits, target) + loss(2 * logits, target)).backward()
    assert logits.grad.isfinite().all()


def test_statistics_give_no_gradient_and_enter_as_constants():
    loss = make_loss('statistics')
    logits, target = make_inputs()
    logits.requires_grad_()
    (actual,) = torch.autograd.grad(loss(logits, target), logits)
    # In evaluation they are the constants that the step has left behind.
    constant = loss.eval()(logits, target)
    (expected,) = torch.autograd.grad(constant, logits)
    torch.testing.assert_close(actual, expected)


def test_statistics_of_two_ranks_are_those_of_the_whole_batch(monkeypatch):
    logits, target = make_inputs(n=12)
    whole = make_loss('statistics')
    whole(logits, target)

    other_sums = []
    monkeypatch.setattr(
        module, 'all_reduce', lambda sums: other_sums.append(sums.clone())
    )
    make_loss('statistics')(logits[8:], target[8:])
    monkeypatch.setattr(
        module, 'all_reduce', lambda sums: sums.add_(other_sums[0])
    )
    rank = make_loss('statistics')
    rank(logits[:8], target[:8])
    for name in TERMS:
        torch.testing.assert_close(getattr(rank, name), getattr(whole, name))


def test_an_overflown_batch_does_not_stay_in_the_statistics():
    loss = make_loss('statistics')
    logits, target = make_inputs()
    logits[0, 0] = math.inf
    loss(logits, target)
    assert all(getattr(loss, name).isfinite().all() for name in TERMS)


# --- class counts ---------------------------------------------------------


def test_counts_travel_in_the_state_dict():
    state = make_loss().state_dict()
    assert state['class_counts'].tolist() == list(STATISTICS.counts)
    assert state['class_counts'].dtype == torch.int64
    assert state['num_train_images'].item() == 1142


def test_without_weighting_no_counts_are_needed():
    loss = LogitCompensatedBCELoss(weighting=False, num_classes=K)
    assert loss(*make_inputs()).isfinite()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'compensation': 'learned', 'num_classes': 3}, "got 'learned'"),
        ({}, 'needs num_classes'),
        ({'compensation': 'none'}, 'needs num_classes'),
        ({'num_classes': 0}, 'positive integer, got 0'),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LogitCompensatedBCELoss(**kwargs)


def test_bad_inputs():
    loss = make_loss()
    with pytest.raises(ValueError, match=r'got \(2, 4\) and \(2,\)'):
        loss(torch.zeros(2, K), torch.zeros(2))
    with pytest.raises(ValueError, match=f'num_classes={K}.* 5 classes'):
        loss(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match='training set has 1 classes'):
        loss.set_class_statistics(ClassStatistics((1,), 2))
    with pytest.raises(ValueError, match='holds no image'):
        loss.set_class_statistics(ClassStatistics((0,) * K, 0))
