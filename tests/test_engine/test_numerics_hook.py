"""Learnable scales that leave a sane range are told once."""

import pytest
import torch
from engine_runner import Model, make_runner

from ltml_mm.engine import CompensationLimitHook
from ltml_mm.engine.hooks import guard_hooks
from ltml_mm.models import LogitCompensatedBCELoss


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
