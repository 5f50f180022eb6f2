"""A signal stops a training in good order, wherever it comes."""

import multiprocessing
import signal
import subprocess

import pytest
import torch
from mmengine.runner import Runner
from signal_sender import SendSignal
from tiny_training import make_config, read_scalars
from torch.utils.data import DataLoader

from ltml_mm._stack import find_stack
from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint
from ltml_mm.engine import PreemptionHook, TrainingStopped
from ltml_mm.engine.hooks.preemption_hook import end_workers, shield_workers

STARTED = []


def note(worker_id):
    STARTED.append(worker_id)


class Answers:
    """Items that tell which workers were initialised."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return len(STARTED)


@pytest.fixture(params=['fork', 'forkserver'])
def loader(request):
    loader = DataLoader(
        Answers(),
        num_workers=1,
        persistent_workers=True,
        worker_init_fn=note,
        multiprocessing_context=request.param,
    )
    shield_workers(loader, [signal.SIGTERM])
    yield loader
    end_workers(loader)


def test_a_worker_heeds_its_parent_alone(loader):
    items = iter(loader)
    # The initialisation that the config asks for is done as well.
    assert next(items).tolist() == [1]
    (worker,) = items._workers
    # From a process of its own: of its parent's it would die, as it should.
    subprocess.run(['kill', '-TERM', str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    assert [item.tolist() for item in items] == [[1]] * 99
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0


def test_ended_workers_can_begin_anew(loader):
    items = iter(loader)
    next(items)
    (worker,) = items._workers
    end_workers(loader)
    assert worker.exitcode == 0
    assert loader._iterator is None
    assert len(list(loader)) == 100


ONEDL = find_stack() == 'onedl'


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """A run that was not stopped, and gives its handlers back."""
    before = signal.getsignal(signal.SIGTERM)
    work_dir = tmp_path_factory.mktemp('whole')
    assert train(make_config(data, work_dir, steps=0))[1] == 0
    assert signal.getsignal(signal.SIGTERM) is before
    return work_dir


@pytest.fixture(autouse=True)
def _handlers(quick):
    """What comes where no hook listens fails a test, and does not end it."""

    def fail(*_):
        raise AssertionError('no hook listens to this signal')

    before = {
        n: signal.signal(n, fail) for n in (signal.SIGTERM, signal.SIGUSR1)
    }
    yield
    # A run that is stopped leaves its handlers, since its process ends.
    for number, handler in before.items():
        signal.signal(number, handler)


def train(config, *sender, signals=('SIGTERM',)):
    """Trains; returns the runner and the exit status."""
    config.default_hooks.preemption = dict(
        type='PreemptionHook', signals=signals
    )
    runner = Runner.from_cfg(config)
    if sender:
        runner.register_hook(SendSignal(*sender))
    try:
        runner.train()
    except TrainingStopped as stop:
        return runner, stop.code
    return runner, 0


def names(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


EVERY_SECOND = {'default_hooks.checkpoint.interval': 2}
ACCUMULATE = {'optim_wrapper.accumulative_counts': 3}


@pytest.mark.parametrize(
    ('change', 'moment', 'step', 'saved'),
    [
        # An epoch has three steps.
        ({}, (2,), 2, ['iter_2.pth']),
        ({}, (3,), 3, ['epoch_1.pth']),
        ({}, (3, True), 3, ['epoch_1.pth']),
        # The validation is finished, since there is no checkpoint of it.
        (EVERY_SECOND, (3, True), 4, ['iter_4.pth']),
        ({}, (9, True), 9, ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']),
        (ACCUMULATE, (4,), 6, ['epoch_1.pth', 'epoch_2.pth']),
    ],
)
def test_stopped_and_resumed(
    data, tmp_path, whole, change, moment, step, saved
):
    config = make_config(data, tmp_path, steps=0)
    config.merge_from_dict(change)
    _, status = train(config, 'SIGTERM', 'self', *moment)
    assert status == 143
    assert names(tmp_path) == saved
    assert ('val', 3) not in read_scalars(tmp_path)
    newest = find_whole_checkpoint(tmp_path)
    assert newest == str(tmp_path / saved[-1])
    assert read_checkpoint(newest)['meta']['iter'] == step
    if change is ACCUMULATE:
        return
    config = make_config(data, tmp_path, steps=0)
    config.merge_from_dict(change)
    config.resume, config.load_from = True, newest
    assert train(config)[1] == 0
    # What was saved inside an epoch is gone, and nothing else is lost.
    assert set(names(tmp_path)) <= set(names(whole))
    if ONEDL or step % 3 == 0:
        assert_same_end(tmp_path, whole)


def assert_same_end(folder, whole):
    found, expected = (
        read_checkpoint(path / 'epoch_3.pth')['state_dict']
        for path in (folder, whole)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    expected, found = read_scalars(whole), read_scalars(folder)
    validations = {key for key in expected if key[0] == 'val'}
    assert len(validations) == 3
    assert validations <= found.keys()
    assert found.items() <= expected.items()


def test_stopped_twice_inside_an_epoch(data, tmp_path):
    for step in (1, 2):
        config = make_config(data, tmp_path, steps=0)
        config.resume, config.load_from = True, find_whole_checkpoint(tmp_path)
        assert train(config, 'SIGTERM', 'self', step)[1] == 143
        assert names(tmp_path) == [f'iter_{step}.pth']


def test_another_signal(data, tmp_path, capsys):
    config = make_config(data, tmp_path, by_epoch=False)
    signals = ('SIGTERM', 'SIGUSR1')
    _, status = train(config, 'SIGUSR1', 'self', 2, signals=signals)
    assert status == 128 + signal.SIGUSR1
    said = capsys.readouterr().out
    assert (
        f'SIGUSR1: the training stops after step 2, which {tmp_path}' in said
    )
    # Among those that the interval makes, it is one of them.
    assert names(tmp_path) == ['iter_2.pth']


@pytest.mark.parametrize('names', ['SIGTERM', ['SIGTERN'], ['SIGKILL']])
def test_unknown_signals(names):
    with pytest.raises(ValueError, match='must be a list of names'):
        PreemptionHook(names)


def test_other_checkpoint_hooks_are_told(data, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    config = make_config(data, tmp_path, steps=0)
    config.default_hooks.checkpoint.type = 'CheckpointHook'
    config.train_cfg.max_epochs = 1
    assert train(config)[1] == 0
    assert 'PreemptionHook does nothing' in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_worker_is_left(data, tmp_path):
    config = make_config(data, tmp_path, num_workers=1, steps=0)
    config.train_cfg.max_epochs = 1
    assert train(config)[1] == 0
    left = multiprocessing.active_children()
    assert not [child for child in left if child.daemon]


def test_a_damaged_one_gives_way_to_the_epoch_before(data, tmp_path):
    train(make_config(data, tmp_path, steps=0), 'SIGTERM', 'self', 5)
    path = tmp_path / 'iter_5.pth'
    assert find_whole_checkpoint(tmp_path) == str(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert find_whole_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
