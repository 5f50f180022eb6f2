"""A disk that fills up while checkpoints are written."""

import subprocess

import forked
import pytest
import torch
from tiny_training import make_config

from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint

LAST = 'iter_9.pth'


def mount(folder, options):
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    if not mount(folder, 'size=16m'):
        pytest.skip('mounting a small tmpfs takes the rights to mount')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def train(data, file, work_dir):
    make_config(data, work_dir, steps=1).dump(file)
    stderr = file.with_suffix('.err')
    process = forked.start(forked.train, file, ['--resume'], None, stderr)
    return forked.finish(process)[0]


def test_full_disk(data, tmp_path, small_disk):
    file = tmp_path / 'config.py'
    assert train(data, file, tmp_path / 'reference') == 0
    size = (tmp_path / 'reference' / LAST).stat().st_size
    # Room for three checkpoints of nine, and for the logs.
    assert mount(small_disk, f'remount,size={int(3.6 * size)}')
    work_dir = small_disk / 'work'

    assert train(data, file, work_dir) == 1
    assert 'No space left on device' in file.with_suffix('.err').read_text()
    found = find_whole_checkpoint(work_dir)
    assert found == str(work_dir / 'iter_3.pth')
    assert not list(work_dir.glob('.*'))

    assert mount(small_disk, f'remount,size={20 * size}')
    assert train(data, file, work_dir) == 0
    expected = read_checkpoint(tmp_path / 'reference' / LAST)['state_dict']
    found = read_checkpoint(work_dir / LAST)['state_dict']
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
