"""Signals that data workers ignore, and one that they do not."""

import signal
import subprocess

import pytest
from torch.utils.data import DataLoader

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
