"""A disk that fills up, and one that nothing can be written to."""

import subprocess

import forked
import pytest
import torch
from tiny_training import make_config

from ltml_mm.apis import train
from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint
from ltml_mm.apis.cli import run_tool

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


def trained(data, file, work_dir):
    make_config(data, work_dir, steps=1).dump(file)
    stderr = file.with_suffix('.err')
    process = forked.start(forked.train, file, ['--resume'], None, stderr)
    return forked.finish(process)[0]


def test_full_disk(data, tmp_path, small_disk):
    file = tmp_path / 'config.py'
    assert trained(data, file, tmp_path / 'reference') == 0
    size = (tmp_path / 'reference' / LAST).stat().st_size
    # Room for three checkpoints of nine, and for the logs.
    assert mount(small_disk, f'remount,size={int(3.6 * size)}')
    work_dir = small_disk / 'work'

    assert trained(data, file, work_dir) == 1
    assert 'No space left on device' in file.with_suffix('.err').read_text()
    found = find_whole_checkpoint(work_dir)
    assert found == str(work_dir / 'iter_3.pth')
    assert not list(work_dir.glob('.*'))

    assert mount(small_disk, f'remount,size={20 * size}')
    assert trained(data, file, work_dir) == 0
    expected = read_checkpoint(tmp_path / 'reference' / LAST)['state_dict']
    found = read_checkpoint(work_dir / LAST)['state_dict']
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    # run_tool sets it for the rest of the process.
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    file = tmp_path / 'config.py'
    make_config(data, 'unused').dump(file)
    return file


def refusal(config, work_dir, capsys):
    """Returns the one line in which a training is refused."""
    with pytest.raises(SystemExit) as error:
        run_tool(lambda: train.main([str(config), '--work-dir', work_dir]))
    assert error.value.code == 1
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert said.startswith(f'error: the work directory {work_dir} cannot be')
    assert '--work-dir' in said
    return said


def test_a_file_is_in_the_way(config, tmp_path, capsys):
    before = sorted(tmp_path.rglob('*'))
    said = refusal(config, str(config / 'runs' / 'new'), capsys)
    assert f'{config} is a file' in said
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('name', ['new/work', 'old'])
def test_a_read_only_disk(config, tmp_path, capsys, name):
    disk = tmp_path / 'disk'
    (disk / 'old').mkdir(parents=True)
    mounts = (
        ['mount', '--bind', str(disk), str(disk)],
        ['mount', '-o', 'remount,ro,bind', str(disk)],
    )
    for command in mounts:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip('a read-only folder takes the rights to mount')
    try:
        said = refusal(config, str(disk / name), capsys)
        assert 'read-only' in said
        assert [path.name for path in disk.rglob('*')] == ['old']
    finally:
        subprocess.run(['umount', str(disk)], check=True)
