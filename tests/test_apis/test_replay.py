"""A step that stopped a run can be computed again."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from poisoned_batch import Poison
from tiny_training import make_config, write_data

from ltml_mm.apis import replay_step
from ltml_mm.engine import NonFiniteError


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


def stopped(data, work_dir, what, **wrapper):
    """A run that met NaN in step 6; returns its dump, config and hook."""
    config = make_config(data, work_dir)
    config.optim_wrapper = dict(
        type='GuardedOptimWrapper',
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        **wrapper,
    )
    # Its running statistics change in the very step that fails.
    config.model.loss_cls = dict(
        type='LogitCompensatedBCELoss', compensation='statistics'
    )
    config.default_hooks.numerics = dict(type='NumericsHook')
    runner = Runner.from_cfg(config)
    hook = Poison(steps=[6], what=what)
    runner.register_hook(hook)
    with pytest.raises(NonFiniteError):
        runner.train()
    dump = work_dir / 'nonfinite_step_6.pth'
    return dump, next(work_dir.glob('*.py')), hook


def same(left, right):
    return left == right or (math.isnan(left) and math.isnan(right))


@pytest.mark.parametrize('accumulative_counts', [1, 3])
def test_the_same_numbers_come_out(data, tmp_path, accumulative_counts):
    dump, config, hook = stopped(
        data, tmp_path, 'labels', accumulative_counts=accumulative_counts
    )
    state = torch.get_rng_state()
    result = replay_step(dump, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.step == 6
    assert len(result.terms) == accumulative_counts
    for found, recorded in zip(result.terms, result.recorded, strict=True):
        assert found.keys() == recorded.keys()
        # Finite terms to the last bit: dropped paths and all.
        assert all(same(found[k], recorded[k]) for k in found)
    last = result.terms[-1]
    assert math.isnan(last['rebalanced.loss_cls'])
    assert math.isfinite(last['uniform.loss_cls'])
    assert math.isfinite(last['loss_consistency'])
    # What is logged beside the loss is no term of it.
    assert len(last) == 3
    paths = [str(p) for names in result.images.values() for p in names]
    assert paths == [str(name) for name in hook.names[6]]
    # The re-balanced branch learns from it alone; the trunk is shared.
    assert 'heads.rebalanced.fc.weight' in result.gradients
    assert 'heads.uniform.fc.weight' not in result.gradients
    assert result.model.heads['rebalanced'].fc.weight.grad.isnan().any()


def test_inputs_that_are_not_finite(data, tmp_path):
    dump, config, _ = stopped(data, tmp_path, 'images')
    result = replay_step(dump, config)
    assert all(math.isnan(term) for term in result.terms[0].values())
    content = torch.load(dump, weights_only=True)
    inputs = content['batches'][0]['kwargs']['inputs']
    assert inputs['uniform'].isnan().all()
    assert inputs['rebalanced'].isfinite().all()
    # As they were before the step: statistics of NaN would be NaN.
    for name, value in content['state_dict'].items():
        assert value.isfinite().all(), name


def test_what_cannot_be_replayed(data, tmp_path):
    dump, config, _ = stopped(data, tmp_path, 'labels')
    with pytest.raises(FileNotFoundError, match=r'dump not found: no\.pth'):
        replay_step('no.pth', config)
    other = Config.fromfile(config)
    other.model.num_classes = 4
    other.dump(tmp_path / 'other.py')
    with pytest.raises(ValueError, match='weights of another model than'):
        replay_step(dump, tmp_path / 'other.py')
    torch.save({'state_dict': {}}, tmp_path / 'checkpoint.pth')
    with pytest.raises(ValueError, match=r'checkpoint\.pth is no dump'):
        replay_step(tmp_path / 'checkpoint.pth', config)
