"""What dist_train.sh does when a scheduler or a lost process ends it."""

import os

import pytest
from tiny_run import start, write_run

from ltml_mm.apis.checkpoint import find_whole_checkpoint

CONFIG = """
_base_ = 'tiny.py'
custom_imports = dict(imports=['ltml_mm', 'signal_sender'])
custom_hooks = [dict(type='SendSignal', {sender})]
train_dataloader = dict(batch_size=2)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stopped launches')
    write_run(folder)
    return folder


def launch(folder, sender, *options):
    """Trains with two processes; returns what they say and the status."""
    (folder / 'signalled.py').write_text(CONFIG.format(sender=sender))
    tests = os.path.dirname(os.path.dirname(__file__))
    options = ('--work-dir', 'work', '--no-validate', *options)
    process = start(
        'dist_train.sh',
        'signalled.py',
        2,
        *options,
        cwd=folder,
        PYTHONPATH=tests,
    )
    output, _ = process.communicate(timeout=180)
    return output, process.returncode


def newest(folder):
    """The newest checkpoint, and the others beside it."""
    found = find_whole_checkpoint(folder / 'work')
    names = sorted(path.name for path in (folder / 'work').glob('*.pth'))
    return os.path.basename(found), names


def test_a_signal_and_then_a_lost_process(folder):
    # An epoch has four steps. The first process signals the launcher, which
    # passes it on to both, one after the other.
    sender = "name='SIGTERM', to='parent', step=2"
    output, status = launch(folder, sender)
    assert status != 0
    assert output.count('SIGTERM: the training stops after step 2') == 1
    # No process fails: what is told is the launcher's own end.
    assert 'error: ' not in output
    assert 'ChildFailedError' not in output
    assert newest(folder) == ('iter_2.pth', ['iter_2.pth'])

    sender = "name='SIGKILL', to='self', step=6, rank=1"
    output, status = launch(folder, sender, '--resume')
    assert status != 0
    assert output.count('error: another process of this run is gone') == 1
    assert 'SIGKILL' in output
    assert newest(folder) == ('epoch_1.pth', ['epoch_1.pth'])
