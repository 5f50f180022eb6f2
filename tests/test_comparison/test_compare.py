"""Comparisons from the command line to the table."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tiny_comparison import SMALL_HEAD, options, write_set

from ltml_mm.apis import test
from ltml_mm.apis.config import load_config
from ltml_mm.comparison import compare, runs, single_run
from ltml_mm.comparison.plan import set_steps, write_plan
from ltml_mm.comparison.rows import parse_row
from ltml_mm.comparison.runs import parse_options, plan_runs
from ltml_mm.comparison.single_run import BUSY
from ltml_mm.utils import write_json

ROWS = ['ltml', 'ltml+merged', f'plain=erm,{SMALL_HEAD}']
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
    assert rows == {'ltml', 'plain'}
    assert 'fuse' in (compared / 'broken/seed_0/log.txt').read_text()


def test_both_rows_made_as_many_steps_of_as_many_images(compared):
    for row in ('ltml', 'plain'):
        result = json.loads(
            (compared / row / 'seed_0/result.json').read_text()
        )
        assert (result['steps'], result['images_per_step']) == (6, 4)


def test_the_result_is_that_of_the_last_checkpoint(compared, data, tmp_path):
    run = compared / 'plain/seed_0'
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
    assert 'LTML, merged' in (compared / 'table.md').read_text()


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
    write_plan(folder, plan)
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


HOLD = """
import fcntl, sys
file = open(sys.argv[1], 'w')
fcntl.lockf(file, fcntl.LOCK_EX)
print('held', flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_is_at_is_left_to_it(compared):
    folder = compared / 'ltml/seed_0'
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder / 'lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b'held\n'
        with pytest.raises(SystemExit, match=str(BUSY)):
            single_run.run(folder)
        holder.stdin.close()
    single_run.run(folder)  # finished: nothing to do


def planned(data, row, *further):
    args = compare.parse_args(
        [*arguments(data, data / 'out', [row]), *further]
    )
    _, rows = compare.parse_rows(args.rows, args.data)
    return plan_runs(rows, args.seeds, compare.base_plan(args))[0]


def test_a_row_may_keep_its_own_epoch_length(data):
    row = 'own=ltml,train_dataloader.sampler.epoch_length=10'
    plan = planned(data, row)
    cfg = load_config(plan.config, parse_options(plan.options))
    cfg.merge_from_dict(parse_options(plan.overrides))
    set_steps(cfg, plan)
    assert cfg.train_dataloader.sampler.epoch_length == 10
    assert cfg.train_dataloader.batch_size == 2


def test_the_digest_is_of_what_makes_the_result(data, tmp_path):
    expected = planned(data, 'ltml').config_digest
    moved = shutil.copytree(data, tmp_path / 'moved')
    assert planned(moved, 'ltml').config_digest == expected
    workers = 'train_dataloader.num_workers=2'
    assert planned(data, 'ltml', workers).config_digest == expected
    # Another network, schedule or annotation.
    others = [
        planned(data, 'ltml', 'model.fuse=probs').config_digest,
        planned(data, 'ltml', 'train_cfg.max_epochs=3').config_digest,
        planned(data, 'consistency').config_digest,
    ]
    labels = (moved / 'train.json').read_text()
    (moved / 'train.json').write_text(labels.replace('[0, 2]', '[1, 2]'))
    others.append(planned(moved, 'ltml').config_digest)
    assert len({expected, *others}) == 5


def test_commas_within_brackets_belong_to_the_value():
    row = parse_row('a=ltml,x.y=[1,2],model.fuse=probs', 'voc', Path())
    assert row.overrides == ('x.y=[1,2]', 'model.fuse=probs')


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        (['nothing'], "'nothing' is none of erm"),
        (['a=nothing,b=c'], "'nothing' is none of"),
        (['a=ltml'], 'a changed row is'),
        (['a=ltml,b'], 'a changed row is'),
        (['../a=ltml,b=c'], 'has letters'),
        (['erm=ltml,b=c'], 'is none of erm'),
        (['ltml', 'ltml'], 'ltml twice'),
        (['a=ltml,b=c', 'a=ltml,b=d'], 'a twice'),
        (['ltml+nothing'], 'no variant'),
        (['erm+merged'], 'erm has one branch, and no merged'),
        (['a=ltml,randomness.seed=3'], 'the comparison sets it'),
        (['a=ltml,modle.fuse=probs'], 'did you mean model'),
    ],
)
def test_broken_rows_are_refused_ahead_of_any_training(rows, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        compare.main(
            ['--data=voc', '--rows', *rows, '--out', str(tmp_path / 'out')]
        )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('flag', ['--images-per-step=33', '--epoch-images=5'])
def test_images_that_cannot_be_shared_are_refused_at_once(flag, tmp_path):
    with pytest.raises(ValueError, match='cannot be shared by 2 streams'):
        compare.main(['--data=voc', '--rows=ltml', f'--out={tmp_path}', flag])


def test_a_broken_result_is_named(compared, data):
    path = compared / 'ltml/seed_0/result.json'
    content = path.read_text()
    path.write_text(content[:100])
    try:
        with pytest.raises(ValueError, match=r'seed_0.result\.json is broken'):
            compare.main(arguments(data, compared, ['ltml']))
    finally:
        path.write_text(content)


def test_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
    assert runs._devices() == ['2', '5']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    assert runs._devices() == ['0', '1', '2']


def test_a_run_of_another_process_is_waited_for(tmp_path, monkeypatch):
    plan = SimpleNamespace(row='a', seed=0, config_digest='d')
    result = tmp_path / 'a/seed_0/result.json'
    states = [BUSY, BUSY, 0]

    class Ended:
        def __init__(self, *_):
            self.returncode = states.pop(0)
            if self.returncode == 0:
                write_json(result, {})

        def poll(self):
            return self.returncode

    monkeypatch.setattr(runs, '_start', Ended)
    monkeypatch.setattr(runs, 'POLL', 0)
    assert runs.make_runs(tmp_path, [plan], jobs=1) == []
    assert not states
