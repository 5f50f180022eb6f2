"""The same seed gives the same run, whatever number of workers loads it."""

import pytest
import torch
from mmengine.runner import Runner
from tiny_training import make_config, read_scalars

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.engine.hooks.preemption_hook import end_workers


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    def run(num_workers=0, seed=1):
        work_dir = tmp_path_factory.mktemp('run')
        config = make_config(data, work_dir, num_workers)
        config.randomness.seed = seed
        runner = Runner.from_cfg(config)
        runner.train()
        for loop in (runner.train_loop, runner.val_loop):
            end_workers(loop.dataloader)
        checkpoint = read_checkpoint(work_dir / 'iter_9.pth')
        tensors = dict(checkpoint['state_dict'])
        for i, state in checkpoint['optimizer']['state'].items():
            tensors[f'momentum {i}'] = state['momentum_buffer']
        return tensors, read_scalars(work_dir)

    return run


@pytest.fixture(scope='module')
def first(run):
    return run()


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_same_seed_same_run(run, first, num_workers):
    tensors, scalars = run(num_workers)
    torch.testing.assert_close(tensors, first[0], rtol=0, atol=0)
    assert scalars == first[1]
    assert any(kind == 'val' for kind, _ in scalars)


def test_another_seed_is_another_run(run, first):
    tensors, _ = run(seed=2)
    name = 'heads.uniform.fc.weight'
    assert not torch.equal(tensors[name], first[0][name])
