"""What the runs of a comparison do beside other processes and changes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from forked_scripts import ForkedPopen
from mmengine.config import Config
from tiny_comparison import planned, write_set

from ltml_mm.experiments import runs, single_run
from ltml_mm.experiments.runs import Run, write_run
from ltml_mm.files import write_json

#: What a finished run leaves, as far as it matters here.
DONE = {'metrics': {'fused': {}}}
HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print('ready', flush=True)
    time.sleep(60)
"""
# Fails where it comes to training.
TRAIN = """
import sys
from pathlib import Path
from ltml_mm.experiments import single_run
single_run._train = lambda *_: sys.exit(1)
print('ready', flush=True)
single_run.make_run(Path(sys.argv[1]))
"""
# Stands for single_run: tells that it runs, and on which GPU.
WAIT = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], 'pid').write_text(f'{os.getpid()} {os.environ["GPU"]}')
time.sleep(100)
"""
# make_runs with WAIT for single_run, two runs at a time.
MAKE = """
import os, subprocess, sys
from pathlib import Path
from ltml_mm.experiments import runs
def start(folder, slot):
    command = [sys.executable, '-c', sys.argv[2], str(folder)]
    return subprocess.Popen(command, env={**os.environ, 'GPU': str(slot)})
runs._start = start
runs.write_run = lambda run, cfg: run.folder.mkdir(parents=True)
plans = [
    runs.Run(Path(sys.argv[1]) / row, row, 0, 'voc', False, 'hash')
    for row in 'abc'
]
runs.make_runs(plans, dict.fromkeys('abc'), jobs=2)
"""


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that was planned; its data lies beside it."""
    run, cfg = planned(write_set(tmp_path / 'photos'), 'ltml')
    write_run(replace(run, folder=tmp_path / 'run'), cfg)
    return tmp_path / 'run'


def change(path, old='[0, 2]', new='[1, 2]'):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    'change_of', [('photos/train.json',), ('run/config.py', "'SGD'", "'Adam'")]
)
def test_what_changed_after_it_was_planned_is_not_trained(
    change_of, folder, monkeypatch
):
    path, *texts = change_of
    monkeypatch.setattr(single_run, '_train', lambda *_: pytest.fail('ran'))
    change(folder.parent / path, *texts)
    with pytest.raises(ValueError, match=r'changed after .* undo the change'):
        single_run.make_run(folder)
    assert not (folder / 'result.json').exists()


def test_what_changed_while_it_ran_gives_no_result(folder, monkeypatch):
    def test(*_):
        change(folder.parent / 'photos/train.json')
        return {}

    monkeypatch.setattr(single_run, '_train', lambda *_: (6, 1.0))
    monkeypatch.setattr(single_run, '_test', test)
    with pytest.raises(ValueError, match='undo the change'):
        single_run.make_run(folder)
    assert not (folder / 'result.json').exists()


def start(script, *arguments):
    """Starts a script, and returns when it has printed that it is ready."""
    process = ForkedPopen(
        [sys.executable, '-c', script, *map(str, arguments)],
        stdout=subprocess.PIPE,
    )
    assert b'ready\n' in iter(process.stdout.readline, b'')
    return process


def test_a_run_waits_for_the_process_that_makes_it(folder):
    with start(HOLD, folder / 'lock') as holder, start(TRAIN, folder) as run:
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(3)
        write_json(folder / 'result.json', DONE)  # as if by the holder
        holder.kill()  # the system frees the lock
        assert run.wait(60) == 0


def test_failed_runs_are_told_hold_up_no_other_and_finished_ones_stay(
    tmp_path, monkeypatch, capsys
):
    rows, started = ('done', 'fails', 'b'), []

    class Ended:
        def __init__(self, folder, slot):
            started.append(folder.name)
            self.returncode = int(folder.name == 'fails')
            folder.mkdir(exist_ok=True)
            write_json(folder / 'result.json', DONE)

        def poll(self):
            return self.returncode

    monkeypatch.setattr(runs, 'write_run', lambda run, cfg: None)
    monkeypatch.setattr(runs, '_start', Ended)
    plans = [Run(tmp_path / row, row, 0, 'voc', False, 'hash') for row in rows]
    write_json(plans[0].folder / 'result.json', DONE)
    plans[1].folder.mkdir(parents=True)
    (plans[1].folder / 'log.txt').write_text('said why\n')
    assert runs.make_runs(plans, dict.fromkeys(rows), jobs=1) == [plans[1]]
    assert started == ['fails', 'b']
    plan, failed, why, finished = capsys.readouterr().out.splitlines()
    assert plan == '3 runs: 1 finished, 2 to make, 1 at a time'
    assert 'failed with status 1, 1 left' in failed
    assert why == '  said why'
    assert finished.startswith('finished, 0 left')


def test_the_screen_tells_how_far_the_runs_are(tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 20.0, 40.0, 60.0])
    monkeypatch.setattr(runs.time, 'monotonic', lambda: next(clock))
    run = Run(tmp_path, 'erm', 3, 'voc', False, 'hash')
    screen = runs._Screen(5, 4, 1)
    # The first look finds what was done before.
    for share in (0.25, 0.75):
        told = {'doing': 'training', 'done': share}
        write_json(tmp_path / 'progress.json', told)
        screen.show([run])
    plan, first, second = capsys.readouterr().out.splitlines()
    assert plan.startswith('5 runs: 1 finished, 4 to make')
    assert 'time left unknown; erm seed 3: training (25%)' in first
    # Half a run in 40 seconds, and 3.25 of 4 are left.
    assert second == (
        '[0:00:40] 0 of 4 runs made, 0:04:20 left; erm seed 3: training (75%)'
    )
    # Of a run that starts here, all was made here.
    screen.before[tmp_path] = 0
    screen.show([run])
    assert '0:04:20 left' in capsys.readouterr().out


def running(out):
    """Waits until two processes run; returns their ids and GPUs."""
    for _ in range(1000):
        texts = [path.read_text() for path in out.glob('*/pid')]
        if len(texts) == 2 and all(texts):
            return [tuple(map(int, text.split())) for text in texts]
        time.sleep(0.03)
    raise AssertionError(f'{len(texts)} processes run, not two')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_processes_and_starts_no_other(number, tmp_path):
    # As a terminal starts it, also where the tests run under nohup.
    terminal = f'import signal; signal.signal({int(number)}, signal.SIG_DFL)\n'
    with ForkedPopen(
        [sys.executable, '-c', terminal + MAKE, str(tmp_path), WAIT]
    ) as maker:
        started = running(tmp_path)
        assert {slot for _, slot in started} == {0, 1}
        maker.send_signal(number)
        assert maker.wait(60) != 0
    for process, _ in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'b'}


def test_signals_that_are_ignored_stay_ignored():
    # As nohup starts a process.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runs._signals_noted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ('given', 'devices'), [('2,5', ['2', '5', '2']), (None, ['0', '1', '2'])]
)
def test_gpus_are_those_that_the_process_may_use(
    given, devices, tmp_path, monkeypatch
):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if given is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', given)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    monkeypatch.setattr(subprocess, 'Popen', lambda *_, env, **__: env)
    environments = [runs._start(tmp_path, slot) for slot in range(3)]
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
    # The test of fused probabilities sets the option in its own spelling.
    run, cfg = planned(data, 'x=two_branches,model.fork.fuse=logits')
    write_run(run, cfg)
    single_run.make_run(run.folder)
    assert (run.folder / 'result.json').exists()
    assert len(reads) <= 3
