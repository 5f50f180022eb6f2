"""Each loss term's part of the gradient, in a training that stays the same."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from gradient_shares import GradientSharesHook, main, measure
from mmengine.runner import Runner
from tiny_training import make_config, write_data
from two_branch_case import batch, build

from ltml_mm.apis.checkpoint import read_checkpoint

TERMS = ('uniform.loss_cls', 'rebalanced.loss_cls', 'loss_consistency')


def gradient(model, term):
    """The gradient of one term alone, of all parameters in a row."""
    model = copy.deepcopy(model)
    model(**batch(4), mode='loss')[term].backward()
    return np.concatenate(
        [
            np.zeros(p.numel())
            if p.grad is None
            else p.grad.double().flatten()
            for p in model.parameters()
        ]
    )


def test_values_equal_backward_passes_of_single_terms():
    model = build().train()
    with torch.no_grad():  # both branches and their difference matter
        model.heads['uniform'].fc.weight.mul_(30)
    expected = {term: gradient(model, term) for term in TERMS}
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    found = measure(model, batch(4))

    total = sum(expected.values())
    assert tuple(found['norm']) == TERMS
    for term, own in expected.items():
        norm = np.linalg.norm(own)
        assert found['norm'][term] == pytest.approx(norm, rel=1e-4)
        share = own @ total / (total @ total)
        assert found['share'][term] == pytest.approx(share, rel=1e-3, abs=1e-6)
    assert sum(found['share'].values()) == pytest.approx(1)
    for pair, cosine in found['cosine'].items():
        a, b = (expected[term] for term in pair.split(', '))
        angle = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine == pytest.approx(angle, rel=1e-3, abs=1e-6)
    assert len(found['cosine']) == 3

    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_term_that_is_off_has_no_angle():
    model = build(
        loss_consistency=dict(
            type='CrossBranchConsistencyLoss', loss_weight=0.0
        )
    )
    found = measure(model, batch(4))
    assert found['norm']['loss_consistency'] == 0
    assert found['share']['loss_consistency'] == 0
    assert found['cosine']['uniform.loss_cls, loss_consistency'] is None


@pytest.fixture(scope='module')
def followed(tmp_path_factory, quick):
    """A training, and the same one measured at every step."""
    folder = tmp_path_factory.mktemp('followed')
    data = write_data(folder / 'data')
    hook = GradientSharesHook(steps=100, interval=1)
    for name in ('plain', 'measured'):
        config = make_config(data, folder / name)
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
        runner = Runner.from_cfg(config)
        if name == 'measured':
            runner.register_hook(hook)
        runner.train()
    sections = make_config(data, folder / 'unused').to_dict().items()
    text = '\n'.join(f'{name} = {value!r}' for name, value in sections)
    (folder / 'tiny.py').write_text(text)
    return folder, hook.measured


def test_the_training_stays_the_same(followed):
    folder, measured = followed
    plain, watched = (
        read_checkpoint(folder / name / 'iter_9.pth')['state_dict']
        for name in ('plain', 'measured')
    )
    assert [record['step'] for record in measured] == list(range(1, 10))
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name


def test_the_tool_follows_from_a_checkpoint(followed, tmp_path, capsys):
    folder, measured = followed
    out = tmp_path / 'shares.json'
    config, checkpoint = folder / 'tiny.py', folder / 'plain' / 'iter_3.pth'
    options = ['--steps', '4', '--interval', '2', '--out', str(out)]
    main([str(config), str(checkpoint), *options])
    content = json.loads(out.read_text())
    assert content['steps'] == [measured[3], measured[5]]
    norms = [record['norm'][TERMS[0]] for record in content['steps']]
    value = re.escape(f'{np.mean(norms):.4g}')
    printed = capsys.readouterr().out
    assert re.search(rf'^\| {TERMS[0]} *\| *{value} \|', printed, re.M)
    assert not (folder / 'unused').exists()


def test_nothing_to_follow(followed, tmp_path):
    folder, _ = followed
    arguments = [str(folder / 'tiny.py'), '--out', str(tmp_path / 'x.json')]
    with pytest.raises(ValueError, match='at least 1, got 0'):
        main([*arguments, '--steps', '0'])
    last = str(folder / 'plain' / 'iter_9.pth')
    with pytest.raises(ValueError, match='no step is left'):
        main([arguments[0], last, *arguments[1:]])
    assert not (tmp_path / 'x.json').exists()
