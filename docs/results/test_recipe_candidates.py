"""The candidates that the recipe left out, against their formulas."""

import copy
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from recipe_candidates import (
    EMATeacherClassifier,
    FusedTargetConsistencyLoss,
    PairwiseCompensatedBCELoss,
    WeightedAsymmetricLoss,
)
from tiny_training import REPO, make_config, write_data
from two_branch_case import STATISTICS, batch, build

from ltml_mm.models.fork.branches import BRANCHES, plain_name
from ltml_mm.models.losses import (
    CrossBranchConsistencyLoss,
    LogitCompensatedBCELoss,
)
from ltml_mm.models.weight_averaging import branch_drift, merge_branches

LOGITS = torch.tensor(
    [[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.1, 0.4]], dtype=torch.float64
)
# Positives and negatives, negatives alone, positives alone.
TARGET = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=torch.float64)


def pairs_of(k):
    """exp(z_n - z_p) summed over the pairs of a class, and exp(z_n)."""
    logits, chosen = LOGITS[:, k], TARGET[:, k] > 0
    positive, negative = logits[chosen], logits[~chosen]
    pairs = sum(math.exp(n - p) for n in negative for p in positive)
    return pairs, sum(math.exp(n) for n in negative)


def two_way(k):
    pairs, _ = pairs_of(k)
    return math.log1p(pairs)


def dr(k):
    return math.log1p(sum(pairs_of(k)))


@pytest.mark.parametrize(('pairs', 'term'), [('two_way', two_way), ('dr', dr)])
def test_pairs(pairs, term):
    logits = LOGITS.clone().requires_grad_()
    loss = PairwiseCompensatedBCELoss(3, pairs, 0.5)
    plain = LogitCompensatedBCELoss(num_classes=3)
    for module in (loss, plain):
        module.set_class_statistics(STATISTICS)
    total = loss(logits, TARGET)
    term = sum(term(k) for k in range(3)) / 3
    expected = plain(LOGITS, TARGET) + 0.5 * term
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    total.backward()
    assert logits.grad.isfinite().all()


def test_weighted_asymmetric():
    loss = WeightedAsymmetricLoss(3)
    loss.set_class_statistics(STATISTICS)
    entries = loss.entries(LOGITS, TARGET)
    for i in range(3):
        for k in range(3):
            share = STATISTICS.counts[k] / STATISTICS.num_images
            p = 1 / (1 + math.exp(-LOGITS[i, k]))
            if TARGET[i, k]:
                expected = -math.exp(1 - share) * math.log(p)
            else:
                p = max(p - 0.05, 0)
                expected = -math.exp(share) * p**4 * math.log(1 - p)
            assert entries[i, k].item() == pytest.approx(expected)


def test_fused_target_pulls_half_as_hard():
    gradients = []
    for kind in (FusedTargetConsistencyLoss, CrossBranchConsistencyLoss):
        own = LOGITS.clone().requires_grad_()
        other = TARGET.clone().requires_grad_()
        value = kind(0.3)(own, other)
        gradients.append(torch.autograd.grad(value, (own, other)))
        difference = (LOGITS - TARGET).square().mean().item()
        factor = 0.5 if kind is FusedTargetConsistencyLoss else 1
        assert value.item() == pytest.approx(0.3 * factor * difference)
    for fused, crossed in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, crossed / 2)


def test_teacher_is_the_average_of_the_steps():
    model = build(type='EMATeacherClassifier', momentum=0.25)
    plain = build()
    assert isinstance(model, EMATeacherClassifier)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average, images = None, batch()
    both = torch.cat([*images['inputs'].values()])
    for _ in range(3):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        assert list(state) == list(plain.state_dict())
        average = state if average is None else blend(average, state)
        teacher = copy.deepcopy(plain)
        teacher.load_state_dict(average)
        student = copy.deepcopy(plain)
        student.load_state_dict(state)
        with torch.no_grad():
            target = torch.stack([*teacher.branch_logits(both).values()])
            expected = 0.0
            for z in student.branch_logits(both).values():
                # A mean over each of the two streams.
                expected += 2 * 0.1 * (z - target.mean(0)).square().mean()
        losses = model.loss(**images)
        assert losses['loss_consistency'].item() == pytest.approx(
            expected.item(), rel=1e-5, abs=1e-9
        )
        copy.deepcopy(model)  # As hooks do that average the weights.
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert expected > 0


def blend(average, state):
    return {
        k: v + 0.25 * (state[k] - v) if v.is_floating_point() else state[k]
        for k, v in average.items()
    }


class Watch(Hook):
    """Keeps the weights at the starts and ends of the epochs."""

    def __init__(self):
        self.seen = []

    def _note(self, model):
        state = model.state_dict()
        self.seen.append({k: v.clone() for k, v in state.items()})

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self._note(runner.model)

    def after_train_epoch(self, runner):
        self._note(runner.model)


def test_epochs_start_from_the_average(tmp_path):
    cfg = make_config(write_data(tmp_path / 'data'), tmp_path / 'run')
    cfg.custom_hooks = [dict(type='MergeEveryEpochHook')]
    watch = Watch()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(watch)
    runner.train()
    first, *starts = watch.seen[::2]
    ends = watch.seen[1::2]
    assert branch_drift(first) == 0  # copies; the heads start apart
    heads = [first[f'heads.{b}.fc.weight'] for b in BRANCHES]
    assert not torch.equal(*heads)
    for before, start in zip(ends, starts, strict=False):
        assert branch_drift(before) > 0.0001
        merged = merge_branches(before)
        for key, value in start.items():
            name = plain_name(key).replace('heads.', 'head.')
            if name in merged and value.is_floating_point():
                torch.testing.assert_close(
                    value, merged[name], rtol=1e-6, atol=1e-7
                )


@pytest.mark.parametrize(
    ('script', 'arguments', 'runs'),
    [
        # 13 candidates; and what the tables share is run once.
        ('candidates.sh', ['4', '8', '0.1', '0.2'], 28),
        pytest.param('coco80.sh', [], 12 + 6 + 7, marks=pytest.mark.long),
    ],
)
def test_scripts_plan_their_rows(tmp_path, script, arguments, runs):
    """Every row's config is built, from the entries that the script names."""
    data = write_data(tmp_path / 'data')
    (data / 'val.json').write_bytes((data / 'train.json').read_bytes())
    weights = tmp_path / 'weights.pth'
    torch.save({}, weights)
    out = tmp_path / 'out'
    folder = REPO / 'docs/results'
    paths = [REPO, *filter(None, sys.path)]
    done = subprocess.run(
        ['bash', folder / script, data, weights, out, *arguments],
        env={
            **os.environ,
            'DRY_RUN': '1',
            'CUDA_VISIBLE_DEVICES': '',
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'PYTHONPATH': os.pathsep.join(map(str, paths)),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    planned = set(re.findall(r'\S+/seed_0(?= )', done.stdout))
    assert len(planned) == runs
