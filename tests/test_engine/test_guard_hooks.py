"""What would spoil a training is refused, limited or told."""

from types import SimpleNamespace

import pytest
import torch
from engine_runner import make_runner
from mmengine.model import BaseModel, ModuleDict
from mmengine.optim import OptimWrapper
from torch import nn

from engine_runner import Numbers  # isort: skip
from engine_runner import Model

from ltml_mm.engine import CompensationLimitHook, ConsistencyLimitHook
from ltml_mm.engine.hooks import guard_hooks
from ltml_mm.models import CrossBranchConsistencyLoss, LogitCompensatedBCELoss

HOOKS = ['ClassStatisticsHook', 'ScheduleCheckHook']


def warm_up(end, kind='LinearLR', **kwargs):
    kwargs = {'by_epoch': False, 'begin': 0, **kwargs}
    end = {} if end is None else {'end': end}
    return dict(type=kind, **kwargs, **end)


def drops(end, milestone=None, by_epoch=True):
    return dict(
        type='MultiStepLR',
        by_epoch=by_epoch,
        milestones=[end if milestone is None else milestone],
        end=end,
    )


def train_by_epochs(work_dir, schedulers, epochs=3):
    """Two steps an epoch."""
    runner = make_runner(
        work_dir,
        hooks=HOOKS,
        param_scheduler=schedulers,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
    )
    runner.train()
    return runner


@pytest.mark.parametrize('kind', ['LinearLR', 'ConstantLR'])
def test_a_warm_up_as_long_as_the_run_is_fine(tmp_path, kind):
    train_by_epochs(tmp_path, [warm_up(6, kind), drops(3)])


@pytest.mark.parametrize(('milestone', 'by_epoch'), [(2, True), (4, False)])
def test_one_until_the_first_drop_is_refused(tmp_path, milestone, by_epoch):
    schedule = drops(3 if by_epoch else 6, milestone, by_epoch)
    with pytest.raises(ValueError, match=r'takes 4 steps.* drops after 4:'):
        train_by_epochs(tmp_path / 'a', [warm_up(4), schedule])
    train_by_epochs(tmp_path / 'b', [warm_up(3), schedule])


def test_milestones_count_from_the_beginning_of_their_scheduler(tmp_path):
    schedule = {**drops(3, milestone=1), 'begin': 1}
    train_by_epochs(tmp_path / 'a', [warm_up(3), schedule])
    with pytest.raises(ValueError, match='drops after 4'):
        train_by_epochs(tmp_path / 'b', [warm_up(4), schedule])


def test_the_message_says_what_to_write(tmp_path):
    with pytest.raises(ValueError, match='convert_to_iter_based=True') as e:
        train_by_epochs(tmp_path, [warm_up(150), drops(3, milestone=2)])
    assert '1 process(es) with a batch of 4' in str(e.value)


@pytest.mark.parametrize(
    'scheduler',
    [
        # In epochs, it cannot outlast the run by a change of processes.
        warm_up(5, by_epoch=True),
        # It may outlast a run that is cut short.
        warm_up(9),
        None,
        # No end at all: a constant factor, not a warm-up.
        warm_up(None, 'ConstantLR', factor=0.5),
        # Not a warm-up but the schedule itself.
        dict(type='CosineAnnealingLR', T_max=100, by_epoch=False),
    ],
)
def test_other_schedules_are_left_alone(tmp_path, scheduler):
    train_by_epochs(tmp_path, scheduler and [scheduler])


def test_warm_ups_of_several_optimizers_are_seen(tmp_path):
    runner = make_runner(
        tmp_path, hooks=HOOKS, train_cfg=dict(by_epoch=True, max_epochs=3)
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    built = [
        runner.build_param_scheduler([scheduler])[0]
        for scheduler in (warm_up(2), warm_up(99), drops(3, milestone=2))
    ]
    runner.param_schedulers = {'a': built[:1], 'b': built[1:]}
    with pytest.raises(ValueError, match='takes 99 steps'):
        runner.call_hook('before_train')


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


def run(work_dir, changes, epochs=1, compensation='learnable', lr=0, hook=''):
    """Trains two steps an epoch; without a learning rate, scales stay."""
    torch.manual_seed(0)
    model = Model(loss=LogitCompensatedBCELoss(compensation, num_classes=3))
    with torch.no_grad():
        for (name, k), value in changes.items():
            getattr(model.loss, name)[k] = value
    make_runner(
        work_dir,
        model,
        hooks=['ClassStatisticsHook', hook or 'NumericsHook'],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
    ).train()
    return model.loss


@pytest.mark.parametrize(
    ('term', 'value', 'words'),
    [
        ('pos_scale', 0.09, 'loss.pos_scale of cow: 0.09'),
        ('neg_scale', 10.5, 'loss.neg_scale of cow: 10.5'),
        ('pos_scale', -1.0, 'loss.pos_scale of cow: -1'),
    ],
)
def test_each_is_named_once(tmp_path, capsys, monkeypatch, term, value, words):
    # A look at every step, so that being told again would show.
    monkeypatch.setattr(guard_hooks, 'INTERVAL', 1)
    run(tmp_path, {(term, 1): value}, epochs=2)
    output = capsys.readouterr().out
    assert output.count(words) == 1
    assert output.count('left the range') == 1
    assert output.count(' by step 1: ') == 1
    # At the end all steps are counted.
    monkeypatch.setattr(guard_hooks, 'INTERVAL', 100)
    run(tmp_path / 'end', {(term, 1): value})
    assert ' by step 2: ' in capsys.readouterr().out
    assert 'of cat' not in output
    assert 'of dog' not in output


@pytest.mark.parametrize('compensation', ['learnable', 'statistics', 'none'])
def test_silence_where_all_is_well(tmp_path, capsys, compensation):
    changes = {}
    if compensation == 'learnable':
        changes = {('pos_scale', 0): 0.1, ('neg_scale', 2): 10.0}
        changes['pos_bias', 1] = -50.0  # biases may be anything
    run(tmp_path, changes, compensation=compensation)
    assert 'left the range' not in capsys.readouterr().out


def test_scales_are_held_up(tmp_path):
    """The others are bitwise those of a run without the hook."""
    free, held = (
        torch.stack([loss.pos_scale, loss.neg_scale])
        for loss in (
            run(tmp_path, {}, lr=1.0, hook=hook)
            for hook in ('', 'CompensationLimitHook')
        )
    )
    assert free.min() < 0.3
    assert held.min() >= 0.3
    assert torch.equal(free[:, :2], held[:, :2])
    with pytest.raises(ValueError, match=r'least must be in \(0, 1\], got 2'):
        CompensationLimitHook(2)
