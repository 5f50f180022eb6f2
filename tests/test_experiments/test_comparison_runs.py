"""What the runs of a comparison do beside other processes and changes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from mmengine.config import Config
from tiny_comparison import planned, write_set

from ltml_mm.experiments import runs, single_run
from ltml_mm.experiments.run_config import Run, write_run
from ltml_mm.files import write_json

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""
# Stands for single_run: tells that it runs, and waits to be told to go on.
WAIT = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / 'pid').write_text(f'{os.getpid()} {os.environ["GPU"]}')
while not (folder.parents[1] / 'go').exists():
    time.sleep(0.01)
"""
# make_runs with WAIT for single_run, two runs at a time.
MAKE = """
import sys
from pathlib import Path
from test_comparison_runs import made_up, use_script
from ltml_mm.experiments import runs
use_script(lambda name, value: setattr(runs, name, value))
plans = [made_up(Path(sys.argv[1]), row) for row in 'abc']
runs.make_runs(plans, dict.fromkeys('abc'), jobs=2)
"""


@contextmanager
def holding(folder):
    """Another process makes a run; yields that process."""
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder / 'lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b'held\n'
        yield holder
        holder.kill()


@pytest.fixture
def planned_run(tmp_path):
    """A run, and the files that it depends on."""
    data = write_set(tmp_path / 'photos')
    run, cfg = planned(data, 'ltml')
    run = replace(run, folder=tmp_path / 'run')
    write_run(run, cfg)
    return run.folder, {
        'config': (run.folder / 'config.py', "'SGD'", "'Adam'"),
        'annotations': (data / 'train.json', '[0, 2]', '[1, 2]'),
    }


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize('kind', ['config', 'annotations'])
def test_what_changed_after_it_was_planned_is_not_trained(
    kind, planned_run, monkeypatch
):
    folder, files = planned_run
    monkeypatch.setattr(single_run, '_train', lambda _: pytest.fail('ran'))
    change(*files[kind])
    with pytest.raises(ValueError, match=r'changed after .* undo the change'):
        single_run.make_run(folder)
    assert not (folder / 'result.json').exists()


@pytest.mark.parametrize('changes', [True, False])
def test_what_changed_while_it_ran_gives_no_result(
    changes, planned_run, monkeypatch
):
    folder, files = planned_run
    monkeypatch.setattr(single_run, '_train', lambda _: 6)

    def test_and_change(*_):
        if changes:
            change(*files['annotations'])
        return {}

    monkeypatch.setattr(single_run, '_test', test_and_change)
    if changes:
        with pytest.raises(ValueError, match='undo the change'):
            single_run.make_run(folder)
    else:
        single_run.make_run(folder)
    assert (folder / 'result.json').exists() != changes


def test_a_run_waits_for_the_process_that_makes_it(planned_run):
    folder, _ = planned_run
    with holding(folder) as holder:
        waiting = subprocess.Popen(
            [sys.executable, '-m', single_run.__name__, str(folder)]
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(3)
        write_json(folder / 'result.json', {})  # as if by the holder
        holder.kill()  # the system frees the lock
        assert waiting.wait(60) == 0
    assert not (folder / 'work').exists()


def test_a_look_at_a_lock_neither_makes_nor_keeps_it(tmp_path):
    folder = tmp_path / 'run'
    assert not runs.is_held(folder)
    assert not folder.exists()
    with holding(folder) as holder:
        assert runs.is_held(folder)
        holder.kill()
        holder.wait()
        assert not runs.is_held(folder)
    with holding(folder):
        assert runs.is_held(folder)


def made_up(out, row):
    return Run(out / row / 'seed_0', row, 0, 'voc', False, 'hash')


def use_script(setattr, code=WAIT):
    """Lets a script take the place of single_run."""

    def start(folder, slot):
        return subprocess.Popen(
            [sys.executable, '-c', code, str(folder)],
            env={**os.environ, 'GPU': str(slot)},
        )

    setattr('write_run', lambda run, cfg: run.folder.mkdir(parents=True))
    setattr('_start', start)


@pytest.fixture
def started(monkeypatch):
    """Rows of the started processes, which leave a result at once."""
    rows = []

    class Ended:
        returncode = 0

        def __init__(self, folder, slot):
            rows.append(folder.parent.name)
            write_json(folder / 'result.json', {'config_hash': 'hash'})

        def wait(self):
            return rows[-1] == 'fails'

    monkeypatch.setattr(runs, 'write_run', lambda run, cfg: None)
    monkeypatch.setattr(runs, '_start', Ended)
    return rows


def test_what_another_process_makes_comes_last_and_the_finished_never(
    tmp_path, started
):
    rows = ('held', 'b', 'done', 'c')
    plans = [made_up(tmp_path, row) for row in rows]
    write_json(tmp_path / 'done/seed_0/result.json', {'config_hash': 'hash'})
    configs = dict.fromkeys(rows)
    with holding(tmp_path / 'held/seed_0'):
        assert runs.make_runs(plans, configs, jobs=1) == []
    assert started == ['b', 'c', 'held']
    assert runs.make_runs(plans, configs, jobs=1) == []
    assert len(started) == 3


def test_failed_runs_are_told_and_hold_up_no_other(tmp_path, started):
    plans = [made_up(tmp_path, row) for row in ('fails', 'b')]
    for plan in plans:
        plan.folder.mkdir(parents=True)
        (plan.folder / 'log.txt').write_text('said why\n')
    configs = dict.fromkeys(('fails', 'b'))
    assert runs.make_runs(plans, configs, jobs=1) == plans[:1]
    assert started == ['fails', 'b']


def running(out, count):
    """Waits until so many processes run; their ids and slots by row."""
    for _ in range(1000):
        files = {path.parts[-3]: path for path in out.glob('*/*/pid')}
        if len(files) == count and all(f.read_text() for f in files.values()):
            return {
                row: tuple(map(int, file.read_text().split()))
                for row, file in files.items()
            }
        time.sleep(0.03)
    raise AssertionError(f'{len(files)} processes run, not {count}')


@contextmanager
def made_apart(out):
    """make_runs in a process of its own, in the midst of its first two."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    with subprocess.Popen(
        [sys.executable, '-c', MAKE, str(out)],
        env={**os.environ, 'PYTHONPATH': path},
    ) as maker:
        yield maker, running(out, 2)
        (out / 'go').touch()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_processes_and_starts_no_other(number, tmp_path):
    with made_apart(tmp_path) as (maker, started):
        assert {slot for _, slot in started.values()} == {0, 1}
        maker.send_signal(number)
        assert maker.wait(60) != 0
        for process, _ in started.values():
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)
    assert started.keys() == {'a', 'b'}
    assert not (tmp_path / 'c').exists()


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM])
def test_signals_that_are_ignored_stay_ignored(number):
    # As nohup starts a process.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with runs._stopping(runs._Processes()):
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ('given', 'devices'), [('2,5', ['2', '5', '2']), (None, ['0', '1', '2'])]
)
def test_gpus_are_those_that_the_process_may_use(given, devices, monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if given is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', given)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    environments = [runs._environment(slot) for slot in range(3)]
    assert [e['CUDA_VISIBLE_DEVICES'] for e in environments] == devices


def test_a_run_reads_its_config_at_most_three_times(
    tmp_path, monkeypatch, quick, quiet
):
    read = Config.fromfile
    reads = []

    def count(path, *args, **kwargs):
        reads.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Config, 'fromfile', count)
    data = write_set(tmp_path / 'photos')
    run, cfg = planned(data, 'two_branches')
    write_run(run, cfg)
    single_run.make_run(run.folder)
    assert (run.folder / 'result.json').exists()
    assert len(reads) <= 3
