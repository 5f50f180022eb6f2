"""Checkpoints are read whole or refused, and never run."""

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

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


def test_getattr_reaches_nothing_but_statistics(tmp_path):
    # HistoryBuffer.update.__globals__ would lead anywhere.
    class Reach:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, 'update'))

    path = tmp_path / 'reach.pth'
    torch.save({**contents(), 'extra': Reach()}, path)
    assert "'update'" in refusal(path)


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


def zip_of(path, name, data):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(name, data)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'x.pth'
    for data in (b'', b'hello', b'\x00' * 200, pickle.dumps({'a': 1})):
        path.write_bytes(data)
        refusal(path)
    zip_of(path, 'readme.txt', 'hello')
    refusal(path)


def test_a_script_is_refused(tmp_path):
    path = tmp_path / 'script.pth'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
        refusal(path)


@pytest.mark.parametrize('content', [{'weight': torch.ones(1)}, [1, 2], 5])
def test_bare_weights_are_no_checkpoint(tmp_path, content):
    path = tmp_path / 'weights.pth'
    torch.save(content, path)
    assert 'holds no "state_dict"' in refusal(path)


def test_missing_files_and_folders_are_named(tmp_path):
    assert 'not found' in refusal(tmp_path / 'none.pth')
    assert 'not found' in refusal(tmp_path)
