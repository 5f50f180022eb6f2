"""A work directory that nothing can be written into."""

import subprocess

import pytest
from tiny_training import make_config

from ltml_mm.apis import train
from ltml_mm.apis.cli import run_tool


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
