"""Checkpoints are read whole or refused, and never run."""

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from ltml_mm.apis.checkpoint import CheckpointError, read_checkpoint


class Attack:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def contents():
    history = HistoryBuffer()
    history.update(1.5)
    history.update(np.float64(2.5))
    return {
        'meta': {'epoch': 3, 'dataset_meta': {'class_counts': [3, 1]}},
        'state_dict': {'weight': torch.arange(6.0).reshape(2, 3)},
        'message_hub': {
            'log_scalars': {'train/loss': history},
            'runtime_info': {'rho': np.array([0.5, 0.25]), 'n': np.int64(4)},
        },
    }


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'epoch_3.pth'
    torch.save(contents(), path)
    return path


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    return message


@pytest.mark.parametrize('zipped', [True, False])
def test_everything_that_mmengine_saves_is_read(tmp_path, zipped):
    path = tmp_path / 'epoch_3.pth'
    torch.save(contents(), path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(str(path))
    assert read['meta'] == contents()['meta']
    assert torch.equal(
        read['state_dict']['weight'], contents()['state_dict']['weight']
    )
    hub = read['message_hub']
    assert hub['log_scalars']['train/loss'].mean() == 2.0
    assert hub['runtime_info']['rho'].tolist() == [0.5, 0.25]
    assert hub['runtime_info']['n'] == 4


SCHEDULERS = sorted(
    name
    for name, kind in PARAM_SCHEDULERS.module_dict.items()
    if kind.__module__.startswith('mmengine.')
)
#: What some of them need to be built.
NEEDED = {
    'CosineAnnealing': dict(T_max=4),
    'CosineRestart': dict(periods=[8], eta_min=0.1),
    'Exponential': dict(gamma=0.9),
    'MultiStep': dict(milestones=[1, 3]),
    'OneCycle': dict(total_steps=9, eta_max=0.4, anneal_strategy='linear'),
    'ReduceOnPlateau': dict(monitor='loss', patience=1),
    'Step': dict(step_size=2),
}


@pytest.mark.parametrize('name', SCHEDULERS)
def test_the_state_of_every_stock_scheduler_is_read(tmp_path, name):
    stem = name.removesuffix('ParamScheduler')
    options = dict(type=name)
    if stem == name:
        stem = name.removesuffix('LR').removesuffix('Momentum')
    else:
        options['param_name'] = 'lr'
    options.update(NEEDED.get(stem, {}))

    weights = [torch.nn.Parameter(torch.ones(2))]
    sgd = torch.optim.SGD(weights, lr=0.4, momentum=0.9)
    scheduler = PARAM_SCHEDULERS.build({**options, 'optimizer': sgd})
    sgd.step()
    scheduler.step(*[{'loss': 1.0}] * (stem == 'ReduceOnPlateau'))
    path = tmp_path / 'epoch_3.pth'
    state = scheduler.state_dict()
    torch.save({'state_dict': {}, 'param_schedulers': [state]}, path)
    assert read_checkpoint(path)['param_schedulers'] == [state]


@pytest.mark.parametrize('zipped', [True, False])
def test_a_foreign_object_is_named_and_not_run(tmp_path, zipped):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'executed'
    content = {**contents(), 'extra': Attack(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert 'refused' in message
    assert 'pathlib.' in message
    assert 'can still be loaded' not in message
    assert not trace.exists()
    # The same file does run where the loader lets it.
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_only_what_is_foreign_is_named(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save({**contents(), 'model': torch.nn.ReLU()}, path)
    message = refusal(path)
    assert 'torch.nn.modules.activation.ReLU' in message
    assert 'HistoryBuffer' not in message
    assert 'numpy' not in message


@pytest.mark.parametrize(
    ('owner', 'name'),
    [(HistoryBuffer, 'update'), (OneCycleParamScheduler, 'step')],
)
def test_getattr_reaches_nothing_else(tmp_path, owner, name):
    # HistoryBuffer.update.__globals__ would lead anywhere.
    class Reach:
        def __reduce__(self):
            return (getattr, (owner, name))

    path = tmp_path / 'reach.pth'
    torch.save({**contents(), 'extra': Reach()}, path)
    assert f'{name!r}' in refusal(path)


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(checkpoint, share):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(share * len(data))])
    assert 'checkpoint' in refusal(checkpoint)


def test_damage_anywhere_ends_in_a_named_error(tmp_path):
    path = tmp_path / 'legacy.pth'
    torch.save(contents(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'x.pth'
    for data in (b'', b'hello', b'\x00' * 200, pickle.dumps({'a': 1})):
        path.write_bytes(data)
        refusal(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    refusal(path)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
        refusal(path)
