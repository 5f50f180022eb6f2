"""The same seed gives the same run, whatever number of workers loads it."""

import pytest
import torch
from mmengine.runner import Runner
from tiny_training import make_config, read_scalars

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import complete_config
from ltml_mm.engine.hooks.preemption_hook import end_workers


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    def run(num_workers=0, seed=1, fast=False):
        work_dir = tmp_path_factory.mktemp('run')
        config = make_config(data, work_dir, num_workers)
        config.randomness.seed = seed
        if fast:
            make_fast(config)
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


def make_fast(config):
    """Keeps decoded images and augments on the model's device."""
    for name in ('train_dataloader', 'val_dataloader'):
        dataset = config[name].dataset.get('dataset', config[name].dataset)
        dataset.image_cache = 'auto'
        dataset.pipeline[0].type = 'LoadCheckedImage'
    pipeline = config.train_dataloader.dataset.dataset.pipeline
    pipeline[4].type = 'RandomMirror'
    pipeline[5].type = 'PackImage'
    config.augment_on = 'device'
    complete_config(config)


@pytest.fixture(scope='module')
def first(run):
    return run()


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_same_seed_same_run(run, first, num_workers):
    tensors, scalars = run(num_workers)
    torch.testing.assert_close(tensors, first[0], rtol=0, atol=0)
    assert scalars == first[1]
    assert any(kind == 'val' for kind, _ in scalars)


@pytest.mark.parametrize('num_workers', [0, 3])
def test_kept_images_and_augmentation_on_a_cpu_as_device(
    run, first, num_workers
):
    tensors, scalars = run(num_workers, fast=True)
    torch.testing.assert_close(tensors, first[0], rtol=0, atol=0)
    assert scalars == first[1]


def test_another_seed_is_another_run(run, first):
    tensors, _ = run(seed=2)
    name = 'heads.uniform.fc.weight'
    assert not torch.equal(tensors[name], first[0][name])
