"""Signals to a training, its workers and its processes."""

import re

import forked
import pytest
from tiny_training import make_config

from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint


def write_config(data, folder, sender, num_workers):
    config = make_config(data, folder / 'work', num_workers, steps=0)
    config.custom_imports.imports.append('signal_sender')
    config.custom_hooks.append(dict(type='SendSignal', **sender))
    config.default_hooks.preemption = dict(type='PreemptionHook')
    config.dump(folder / 'config.py')
    return folder / 'config.py'


def train(data, folder, **sender):
    """Trains with two workers; returns the status and what is said."""
    file = write_config(data, folder, sender, num_workers=2)
    stderr = folder / 'stderr.txt'
    process = forked.start(forked.train, file, (), None, stderr)
    (status,) = forked.finish(process)
    return status, stderr.read_text()


@pytest.mark.parametrize(('name', 'code'), [('SIGTERM', 143), ('SIGINT', 130)])
def test_a_signal_to_all_processes_of_a_job(data, tmp_path, name, code):
    """SIGINT is Ctrl-C, which a terminal sends to the workers, too."""
    status, said = train(data, tmp_path, name=name, to='group', step=5)
    assert status == code
    assert 'Traceback' not in said
    path = tmp_path / 'work' / 'iter_5.pth'
    assert find_whole_checkpoint(tmp_path / 'work') == str(path)


def test_a_killed_worker(data, tmp_path):
    status, said = train(data, tmp_path, name='SIGKILL', to='worker', step=5)
    assert status == 1
    assert 'Traceback' not in said
    assert re.fullmatch(
        r'error: DataLoader worker \(pid \d+\) is killed by signal: Killed\. '
        r'.*memory.*num_workers.*--resume',
        said.splitlines()[-1],
    )
    path = tmp_path / 'work' / 'epoch_1.pth'
    assert find_whole_checkpoint(tmp_path / 'work') == str(path)


def test_a_signal_to_one_of_two_processes(data, tmp_path):
    sender = dict(name='SIGTERM', to='self', step=4, rank=1)
    file = write_config(data, tmp_path, sender, num_workers=0)
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    assert forked.train_ranks(file, options) == [143, 143]
    state = read_checkpoint(tmp_path / 'work' / 'iter_4.pth')
    # What each of them needs to go on.
    assert len(state['exact_resume']['ranks']) == 2
