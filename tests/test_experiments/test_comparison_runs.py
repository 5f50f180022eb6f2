"""What the runs of a comparison do beside other processes and changes."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_comparison import planned, write_set

from ltml_mm.experiments import runs, single_run
from ltml_mm.experiments.compare import CONFIGS
from ltml_mm.experiments.run_config import planned_digest, write_plan
from ltml_mm.experiments.run_lock import BUSY, is_held
from ltml_mm.files import write_json

HOLD = """
import fcntl, sys
file = open(sys.argv[1], 'w')
fcntl.lockf(file, fcntl.LOCK_EX)
print('held', flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(folder):
    """Another process is at a run; yields what ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder / 'lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b'held\n'
        yield lambda: (holder.stdin.close(), holder.wait())


@pytest.fixture
def planned_run(tmp_path):
    """A run of its own config, and the files that it depends on."""
    data = write_set(tmp_path / 'photos')
    config = tmp_path / 'own.py'
    config.write_text(f"_base_ = '{CONFIGS / 'ltml_custom.py'}'\nfuse = 1\n")
    plan = replace(planned(data, 'ltml'), config=str(config))
    plan = replace(plan, config_digest=planned_digest(plan))
    write_plan(tmp_path / 'run', plan)
    files = {'config': (config, 'fuse = 1', 'fuse = 2')}
    labels = data / 'train.json', '[0, 2]', '[1, 2]'
    return tmp_path / 'run', files | {'annotations': labels}


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize('kind', ['config', 'annotations'])
def test_what_changed_after_it_was_planned_is_not_trained(
    kind, planned_run, monkeypatch
):
    folder, files = planned_run
    monkeypatch.setattr(single_run, '_train', lambda *_: pytest.fail('ran'))
    change(*files[kind])
    with pytest.raises(ValueError, match=r'changed after .* undo the change'):
        single_run.run(folder)
    assert not (folder / 'result.json').exists()


@pytest.mark.parametrize('kind', ['config', 'annotations'])
def test_what_changed_while_it_ran_gives_no_result(
    kind, planned_run, monkeypatch
):
    folder, files = planned_run
    monkeypatch.setattr(single_run, '_train', lambda *_: (6, 4))
    tested = []

    def test_and_change(*_):
        tested.append(change(*files[kind]))
        return {}

    monkeypatch.setattr(single_run, '_test', test_and_change)
    with pytest.raises(ValueError, match=r'changed after .* undo the change'):
        single_run.run(folder)
    assert tested
    assert not (folder / 'result.json').exists()


def test_what_did_not_change_gives_a_result(planned_run, monkeypatch):
    folder, _ = planned_run
    monkeypatch.setattr(single_run, '_train', lambda *_: (6, 4))
    monkeypatch.setattr(single_run, '_test', lambda *_: {})
    single_run.run(folder)
    assert (folder / 'result.json').exists()


def test_a_run_that_another_process_is_at_is_left_to_it(planned_run):
    folder, _ = planned_run
    write_json(folder / 'result.json', {})
    with (
        holding(folder),
        pytest.raises(SystemExit, match=str(BUSY)),
    ):
        single_run.run(folder)
    single_run.run(folder)  # finished: nothing to do


def test_a_look_at_a_lock_neither_makes_nor_keeps_it(tmp_path):
    folder = tmp_path / 'run'
    assert not is_held(folder)
    assert not folder.exists()
    with holding(folder) as end:
        assert is_held(folder)
        end()
        assert not is_held(folder)
    with holding(folder):
        assert is_held(folder)


def make_plan(row):
    return SimpleNamespace(row=row, seed=0, config_digest='d')


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Rows of the started processes, which end at once; sets their states."""
    rows, states = [], []

    class Ended:
        def __init__(self, out, plan, slot):
            rows.append(plan.row)
            self.returncode = states.pop(0) if states else 0
            if self.returncode == 0:
                write_json(tmp_path / plan.row / 'seed_0/result.json', {})

        def poll(self):
            return self.returncode

    monkeypatch.setattr(runs, '_start', Ended)
    monkeypatch.setattr(runs, 'POLL', 0)
    return SimpleNamespace(rows=rows, states=states)


def test_a_run_of_another_process_waits_and_holds_up_no_other(
    tmp_path, started, monkeypatch
):
    plans = [make_plan(row) for row in ('held', 'b', 'c')]
    looks = []
    with holding(tmp_path / 'held/seed_0') as end:

        def sleep(_):
            looks.append([*started.rows])
            if len(looks) == 9:
                end()

        monkeypatch.setattr(runs.time, 'sleep', sleep)
        assert runs.make_runs(tmp_path, plans, jobs=1) == []
    # No process for it, not even in vain, as long as it is held.
    assert looks[8] == ['b', 'c']
    assert started.rows == ['b', 'c', 'held']


def test_a_run_that_was_taken_at_its_start_is_started_again(tmp_path, started):
    started.states += [BUSY, BUSY, 0]
    assert runs.make_runs(tmp_path, [make_plan('a')], jobs=1) == []
    assert started.rows == ['a'] * 3


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM])
def test_signals_that_are_ignored_stay_ignored(number):
    # As nohup starts a process.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with runs._stopping({}):
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM])
def test_other_signals_stop_a_comparison(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), runs._stopping({}):
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
    assert runs._devices() == ['2', '5']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    assert runs._devices() == ['0', '1', '2']
