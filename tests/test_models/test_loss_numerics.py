"""Extreme logits in every precision, for every loss that a config names."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

import ltml_mm  # noqa: F401
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import (
    ClassBalancedFocalLoss,
    CrossBranchConsistencyLoss,
    LogitCompensatedBCELoss,
)

K = 4
LOSSES = {
    'learnable': lambda: LogitCompensatedBCELoss('learnable', num_classes=K),
    'statistics': lambda: LogitCompensatedBCELoss('statistics', num_classes=K),
    'none': lambda: LogitCompensatedBCELoss('none', num_classes=K),
    'class_balanced_half': lambda: ClassBalancedFocalLoss(K, gamma=0.5),
    'consistency': CrossBranchConsistencyLoss,
    'consistency_sum': lambda: CrossBranchConsistencyLoss(reduction='sum'),
    'consistency_probs': lambda: CrossBranchConsistencyLoss(on='probs'),
}
OWN = [*LOSSES]
# What the heads of our configs name, losses of MMPretrain among them.
CONFIGS = Path(__file__).parents[2] / 'configs'
for path in sorted(CONFIGS.glob('[!_]*/*.py')):
    head = Config.fromfile(path).model.get('head') or {}
    if 'loss' in head:
        config = dict(head.loss)
        if 'num_classes' in config:
            config['num_classes'] = K
        LOSSES[path.stem] = functools.partial(MODELS.build, config)

AUTOCAST = {
    'float32': None,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}


def make_loss(name):
    loss = LOSSES[name]()
    if hasattr(loss, 'set_class_statistics'):
        loss.set_class_statistics(ClassStatistics((775, 34, 4, 1), 1142))
    return loss


def extreme_inputs(name, dtype):
    """Logits that are right and wrong by 1e4, and a label-free image."""
    target = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
    signs = torch.tensor([[1, 1, -1, -1], [1, 1, -1, -1], [1, -1, 1, -1]])
    logits = (1e4 * signs).to(dtype or torch.float32).requires_grad_()
    if name.startswith('consistency'):
        return logits, (-logits.detach()).requires_grad_()
    return logits, target.float()


def autocast(dtype):
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast('cpu', dtype=dtype)


@pytest.mark.parametrize('dtype', AUTOCAST.values(), ids=AUTOCAST)
@pytest.mark.parametrize('name', LOSSES)
def test_extreme_logits_stay_finite(name, dtype):
    loss = make_loss(name)
    logits, other = extreme_inputs(name, dtype)
    with autocast(dtype):
        value = loss(logits, other)
        again = loss(logits, other)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value > 0
    value.backward()
    assert logits.grad.isfinite().all()
    for tensor in (*loss.parameters(), *loss.buffers()):
        assert tensor.isfinite().all()
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert again.isfinite()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', LOSSES)
def test_autocast_does_not_lower_the_precision(name, dtype):
    """The same numbers, as half logits, give the float32 loss."""
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, K, generator=generator).to(dtype)
    if not name.startswith('consistency'):
        other = (other > 0).float()
    expected = make_loss(name)(logits.float(), other.float())
    with autocast(dtype):
        value = make_loss(name)(logits, other)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', OWN)
def test_float64_stays_float64(name):
    logits, other = torch.zeros(2, 3, K, dtype=torch.float64)
    assert make_loss(name)(logits, other).dtype == torch.float64


@pytest.mark.parametrize('name', LOSSES)
def test_a_right_answer_costs_less_than_a_wrong_one(name):
    target = torch.tensor([[1.0, 0, 1, 0]])
    right, wrong = 4 * target - 2, 2 - 4 * target
    if name.startswith('consistency'):
        target = right
    loss = make_loss(name).eval()
    assert loss(right, target) < loss(wrong, target)


@pytest.mark.parametrize('name', LOSSES)
def test_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    loss = make_loss(name).eval()
    logits, other = torch.zeros(2, 3, K)
    expected = loss(logits, other)
    compiled = torch.compile(loss, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(logits, other), expected)
