"""Comparisons from the command line to the table."""

import csv
import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tiny_comparison import SMALL_HEAD, options, write_set

from ltml_mm.apis import test
from ltml_mm.comparison import compare, single_run
from ltml_mm.comparison.runs import plan_runs
from ltml_mm.comparison.single_run import BUSY

ROWS = ['ltml', 'ltml+merged', f'erm=erm,{SMALL_HEAD}']
BROKEN = 'broken=ltml,model.fuse=nonsense'
# Ends the process in its second epoch, after the first checkpoint.
KILL = """
import os, signal, sys
from pathlib import Path
from mmengine.hooks import LoggerHook
from ltml_mm.comparison import single_run
def die(self, runner):
    if runner.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
LoggerHook.before_train_epoch = die
single_run.run(Path(sys.argv[1]))
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('photos'))


def arguments(data, out, rows):
    return [
        '--data=custom',
        '--rows',
        *rows,
        '--seeds=0',
        '--jobs=2',
        '--images-per-step=4',
        '--epoch-images=12',
        '--keep-checkpoints',
        '--out',
        str(out),
        '--cfg-options',
        *options(data),
    ]


@pytest.fixture(scope='module')
def compared(data, tmp_path_factory):
    """Two good rows and one that fails."""
    out = tmp_path_factory.mktemp('compared')
    with pytest.raises(SystemExit, match='1'):
        compare.main(arguments(data, out, [*ROWS, BROKEN]))
    return out


def test_a_failed_run_is_named_and_not_counted(compared):
    assert not (compared / 'broken/seed_0/result.json').exists()
    table = (compared / 'table.md').read_text()
    assert 'broken' in table.split('issing')[-1]
    with (compared / 'runs.csv').open() as file:
        rows = {line['row'] for line in csv.DictReader(file)}
    assert rows == {'ltml', 'erm'}
    assert 'fuse' in (compared / 'broken/seed_0/log.txt').read_text()


def test_both_rows_made_as_many_steps_of_as_many_images(compared):
    for row in ('ltml', 'erm'):
        result = json.loads(
            (compared / row / 'seed_0/result.json').read_text()
        )
        assert (result['steps'], result['images_per_step']) == (6, 4)


def test_the_result_is_that_of_the_last_checkpoint(compared, data, tmp_path):
    run = compared / 'erm/seed_0'
    # What test.py predicts, judged by scikit-learn.
    test.main(
        [
            json.loads((run / 'run.json').read_text())['config'],
            str(run / 'work/epoch_2.pth'),
            '--out',
            str(tmp_path / 'x.json'),
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            *options(data),
            SMALL_HEAD,
        ]
    )
    predictions = json.loads((tmp_path / 'x.json').read_text())['predictions']
    labels = json.loads((data / 'test.json').read_text())['data_list']
    scores = np.array([entry['scores'] for entry in predictions])
    target = np.array(
        [[k in entry['gt_label'] for k in range(3)] for entry in labels]
    )
    found = json.loads((run / 'result.json').read_text())
    expected = average_precision_score(target, scores, average=None)
    assert found['metrics']['fused']['mAP'] == pytest.approx(
        100 * expected.mean(), abs=1e-3
    )
    for entry, value in zip(found['classes'], expected, strict=True):
        assert entry['AP']['fused'] == pytest.approx(100 * value, abs=1e-3)


def test_finished_runs_are_not_made_again(compared, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('started a process')

    monkeypatch.setattr(subprocess, 'Popen', refuse)
    compare.main(arguments(data, compared, ROWS))
    assert 'ltml+merged' in (compared / 'table.md').read_text()


def test_another_configuration_is_refused(compared, data):
    other = [*arguments(data, compared, ROWS), 'train_cfg.max_epochs=3']
    with pytest.raises(ValueError, match=r'ltml.seed_0 was configured other'):
        compare.main(other)


def test_a_killed_run_goes_on_and_ends_as_if_never_killed(
    compared, data, quick, quiet
):
    args = compare.parse_args(arguments(data, compared, ['ltml']))
    _, rows = compare.parse_rows(args.rows, args.data)
    [plan] = plan_runs(rows, [0], compare.base_plan(args))
    folder = compared / 'killed'
    single_run.write_plan(folder, plan)
    killed = subprocess.run([sys.executable, '-c', KILL, str(folder)])
    assert killed.returncode == -signal.SIGKILL
    assert (folder / 'work/epoch_1.pth').exists()
    assert not (folder / 'result.json').exists()
    single_run.run(folder)
    found, expected = (
        json.loads(path.read_text())
        for path in (
            folder / 'result.json',
            compared / 'ltml/seed_0/result.json',
        )
    )
    for result in (found, expected):
        result.pop('seconds')
        result.pop('device')
    assert found == expected


def test_a_run_that_another_process_is_at_is_left_to_it(compared):
    folder = compared / 'ltml/seed_0'
    with (folder / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match=str(BUSY)):
            single_run.run(folder)


def test_images_that_the_streams_cannot_share_are_refused(compared):
    plan = single_run.read_plan(compared / 'ltml/seed_0')
    cfg = test.load_config(plan.config, {'data_root': plan.options[0][10:]})
    with pytest.raises(ValueError, match='images_per_step = 5 cannot be'):
        single_run.set_steps(cfg, replace(plan, images_per_step=5))


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        ('nothing', "'nothing' is none of erm"),
        ('a=nothing,b=c', "'nothing' is none of"),
        ('a=ltml', 'a changed row is'),
        ('a=ltml,b', 'a changed row is'),
        ('../a=ltml,b=c', 'a name has letters'),
        ('ltml+nothing', 'no variant'),
    ],
)
def test_broken_rows_are_refused_ahead_of_any_training(row, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        compare.main(
            ['--data=voc', '--rows', row, '--out', str(tmp_path / 'out')]
        )
    assert not (tmp_path / 'out').exists()
