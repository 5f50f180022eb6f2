"""The consistency loss stays within the step that SGD can take."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, ModuleDict
from mmengine.optim import OptimWrapper
from torch import nn

from engine_runner import Numbers, make_runner  # isort: skip
from ltml_mm.engine import ConsistencyLimitHook
from ltml_mm.models import CrossBranchConsistencyLoss

CLASSES, WIDTH, LAMBDA, MOMENTUM = 4, 3, 0.5, 0.9
FEATURES = torch.tensor([[3.0, 4, 0]]).repeat(8, 1)  # squared length 25
CRITICAL = (1 + MOMENTUM) * CLASSES / (4 * LAMBDA * 25)


class Head(nn.Linear):
    """Takes features as MMPretrain's heads do."""

    def forward(self, feats):
        return super().forward(feats[-1])


class Two(BaseModel):
    """Two linear heads that see the same features, and nothing else."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        names = ('uniform', 'rebalanced')
        self.heads = ModuleDict(
            {n: Head(WIDTH, CLASSES, bias=False) for n in names}
        )
        self.loss_consistency = CrossBranchConsistencyLoss(LAMBDA, **options)
        self.apart = []

    def forward(self, inputs, labels, mode):
        u, r = (head((FEATURES,)) for head in self.heads.values())
        self.apart.append((u - r).abs().max().item())
        terms = [self.loss_consistency(a, b) for a, b in ((u, r), (r, u))]
        return {'loss': torch.stack(terms).sum()}


def train(work_dir, rate, hooks=(), **options):
    """Returns how far apart the heads are, before and after 60 steps."""
    model = Two(**options)
    optimizer = dict(type='SGD', lr=rate, momentum=MOMENTUM)
    runner = make_runner(
        work_dir, model, Numbers(), hooks=hooks,
        optim_wrapper=dict(optimizer=optimizer),
        train_cfg=dict(by_epoch=True, max_epochs=30),
    )  # fmt: skip
    runner.train()
    return model.apart[0], model.apart[-1]


def test_sgd_diverges_beyond_the_rate_of_the_formula(tmp_path):
    first, last = train(tmp_path / 'a', 0.95 * CRITICAL)
    assert last < first
    first, last = train(tmp_path / 'b', 1.05 * CRITICAL)
    assert last > 10 * first


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_with_the_hook_no_rate_diverges(tmp_path, reduction):
    rate = 20 * CRITICAL
    hooks = ['ConsistencyLimitHook']
    first, last = train(tmp_path, rate, hooks, reduction=reduction)
    assert last < 0.2 * first


def test_at_a_sane_rate_nothing_changes(tmp_path):
    rate = 0.3 * CRITICAL
    plain = train(tmp_path / 'a', rate)
    assert train(tmp_path / 'b', rate, ['ConsistencyLimitHook']) == plain


def test_a_bounded_loss_is_left_alone(tmp_path):
    rate = 20 * CRITICAL
    plain = train(tmp_path / 'a', rate, on='probs')
    hooks = ['ConsistencyLimitHook']
    assert train(tmp_path / 'b', rate, hooks, on='probs') == plain


def test_features_are_measured_in_training_alone():
    hook, head = ConsistencyLimitHook(), Head(WIDTH, CLASSES)
    for mode in (False, True):
        hook._measure(head.train(mode), ((FEATURES,),))
        assert len(hook._powers) == mode


def test_a_rate_that_changes_is_not_compiled_anew():
    """Past eight graphs the limit would be computed eagerly."""
    torch._dynamo.reset()
    model, hook, graphs = Two(), ConsistencyLimitHook(), []
    plain = model(None, None, 'loss')['loss'].item()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 1.0))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    hook.before_train(runner)
    forward = torch.compile(
        model.forward, backend=lambda graph, _: graphs.append(graph) or graph
    )
    for rate in range(1, 11):
        wrapper.param_groups[0]['lr'] = rate
        hook.before_train_iter(runner, 0)
        model.apart.clear()  # What grows is compiled anew.
        weaker = 0.2 * CLASSES / (rate * LAMBDA * 25)
        loss = forward(None, None, 'loss')['loss'].item()
        assert loss == pytest.approx(weaker * plain)
    assert 0 < len(graphs) < 8


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match='positive, got 0'):
        ConsistencyLimitHook(0)
