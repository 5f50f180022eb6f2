"""Comparisons from the command line to the table."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from forked_scripts import ForkedPopen
from mmengine.config import Config
from sklearn.metrics import average_precision_score
from tiny_comparison import SMALL_HEAD, arguments, planned, write_set

from ltml_mm.apis import test
from ltml_mm.experiments import compare, single_run
from ltml_mm.experiments.rows import parse_rows
from ltml_mm.experiments.runs import write_run
from ltml_mm.files import write_json

ROWS = ['ltml', 'ltml+merged', f'plain=erm,{SMALL_HEAD}']
BROKEN = 'broken=ltml,model.fuse=nonsense'
# Ends the process in its second epoch, after the first checkpoint.
KILL = """
import os, signal, sys
from pathlib import Path
from mmengine.hooks import LoggerHook
from ltml_mm.experiments import single_run
def die(self, runner):
    if runner.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
LoggerHook.before_train_epoch = die
single_run.make_run(Path(sys.argv[1]))
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='module')
def compared(data, tmp_path_factory):
    """Two good rows and one that fails."""
    out = tmp_path_factory.mktemp('compared')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, 'Popen', ForkedPopen)
        with pytest.raises(SystemExit, match='1'):
            compare.main(arguments(data, out, [*ROWS, BROKEN]))
    return out


def test_a_failed_run_is_named_and_not_counted(compared):
    assert not (compared / 'broken/seed_0/result.json').exists()
    table = (compared / 'table.md').read_text()
    assert 'broken' in table.split('issing')[-1]
    _, *lines = (compared / 'runs.csv').read_text().splitlines()
    assert {line.split(',')[0] for line in lines} == {'ltml', 'plain'}
    assert 'fuse' in (compared / 'broken/seed_0/log.txt').read_text()


def test_the_result_is_that_of_the_last_checkpoint(compared, data, tmp_path):
    run, out = compared / 'plain/seed_0', tmp_path / 'x.json'
    # What test.py predicts, judged by scikit-learn.
    checkpoint = run / 'work/epoch_2.pth'
    arguments = [run / 'config.py', checkpoint, '--out', out]
    test.main(map(str, [*arguments, '--work-dir', tmp_path]))
    predictions = json.loads(out.read_text())['predictions']
    labels = json.loads((data / 'test.json').read_text())['data_list']
    scores = np.array([entry['scores'] for entry in predictions])
    target = np.array(
        [[k in entry['gt_label'] for k in range(3)] for entry in labels]
    )
    expected = 100 * average_precision_score(target, scores, average=None)
    found = json.loads((run / 'result.json').read_text())
    assert found['metrics']['fused']['mAP'] == pytest.approx(
        expected.mean(), abs=1e-3
    )
    assert [entry['AP'] for entry in found['classes']] == pytest.approx(
        expected, abs=1e-3
    )
    # Both rows have seen as many images.
    of_two = json.loads((compared / 'ltml/seed_0/result.json').read_text())
    for result in (found, of_two):
        assert (result['steps'], result['images_per_step']) == (6, 4)


def test_finished_runs_are_not_made_again(compared, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('started a process')

    monkeypatch.setattr(subprocess, 'Popen', refuse)
    compare.main(arguments(data, compared, ROWS))
    assert 'LTML, merged' in (compared / 'table.md').read_text()


def test_a_stopped_comparison_reports_what_is_there(
    compared, data, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare.runs, 'make_runs', stop)
    (compared / 'table.md').unlink()
    with pytest.raises(SystemExit, match='130'):
        compare.main(arguments(data, compared, ROWS))
    assert 'All 2 runs are finished' in (compared / 'table.md').read_text()
    # While values are chosen, those runs may have had others.
    (compared / 'table.md').unlink()
    tuned = ['--tune=optim_wrapper.optimizer.lr=1,2', '--tune-fraction=0.3']
    with pytest.raises(SystemExit, match='130'):
        compare.main([*tuned, *arguments(data, compared, ROWS)])
    assert not (compared / 'table.md').exists()


def test_another_configuration_is_refused(compared, data):
    other = [*arguments(data, compared, ROWS), 'train_cfg.max_epochs=3']
    with pytest.raises(ValueError, match=r'ltml.seed_0 was configured other'):
        compare.main(other)
    other[-1] = 'train_dataloader.batch_size=3'
    with pytest.raises(ValueError, match='give --images-per-step, in images'):
        compare.main(other)


def test_a_killed_run_goes_on_and_ends_as_if_never_killed(
    compared, data, quick, quiet
):
    folder = compared / 'killed'
    run, cfg = planned(data, 'ltml')
    run = replace(run, folder=folder, variants=('fused', 'merged'))
    write_run(run, cfg)
    killed = ForkedPopen([sys.executable, '-c', KILL, str(folder)])
    assert killed.wait() == -signal.SIGKILL
    assert (folder / 'work/epoch_1.pth').exists()
    assert not (folder / 'result.json').exists()
    single_run.make_run(folder)
    found, expected = (
        json.loads((path / 'result.json').read_text())
        for path in (folder, compared / 'ltml/seed_0')
    )
    # Nobody knows how long the killed process had trained.
    assert found.pop('seconds') is None
    assert expected.pop('seconds') > 0
    assert found == expected


@pytest.mark.parametrize('kept', [True, False])
def test_a_test_that_is_asked_for_later_is_made(
    compared, data, quick, quiet, monkeypatch, tmp_path, kept
):
    folder = shutil.copytree(compared / 'ltml/seed_0', tmp_path / 'run')
    config = folder / 'config.py'
    text = config.read_text().replace(str(compared / 'ltml/seed_0'), '')
    config.write_text(text.replace("'/work'", f"'{folder / 'work'}'"))
    if not kept:
        for path in (folder / 'work').glob('*.pth*'):
            path.unlink()
        (folder / 'work/last_checkpoint').unlink()
    else:
        pointer = folder / 'work/last_checkpoint'
        pointer.write_text(str(folder / 'work/epoch_2.pth'))
    facts = json.loads((folder / 'run.json').read_text())
    write_json(folder / 'run.json', {**facts, 'variants': ['fused', 'bn']})
    trained = []
    train = single_run._train
    monkeypatch.setattr(
        single_run, '_train', lambda *a: trained.append(a) or train(*a)
    )
    old = json.loads((folder / 'result.json').read_text())
    single_run.make_run(folder)
    new = json.loads((folder / 'result.json').read_text())
    assert bool(trained) != kept
    assert new['metrics'].pop('bn')['mAP'] > 0
    assert new.pop('tested') == [*old.pop('tested'), 'bn']
    assert new == old


def test_a_dry_run_writes_configs_where_the_set_has_none(
    data, tmp_path, capsys
):
    args = arguments(data, tmp_path, [f'plain=erm,{SMALL_HEAD}'])
    compare.main([*args, '--dry-run'])
    folder = tmp_path / 'plain/seed_0'
    config = folder / 'config.py'
    assert f'{folder} {config}\n' in capsys.readouterr().out
    assert [*folder.iterdir()] == [config]
    assert Config.fromfile(config).model.head.num_classes == 3


def test_a_row_may_keep_its_own_epoch_length(data):
    row = 'own=ltml,train_dataloader.sampler.epoch_length=10'
    _, cfg = planned(data, row)
    assert cfg.train_dataloader.sampler.epoch_length == 10
    assert cfg.train_dataloader.batch_size == 2


def hash_of(*args):
    return planned(*args)[0].config_hash


def test_the_hash_is_of_what_makes_the_result(data, tmp_path):
    expected = hash_of(data, 'ltml')
    moved = shutil.copytree(data, tmp_path / 'moved')
    assert hash_of(moved, 'ltml') == expected
    workers, key = 'train_dataloader.num_workers=2', 'default_hooks.'
    for hook in (key + 'logger.interval=7', key + 'mine.type=ProfilerHook'):
        assert hash_of(data, 'ltml', workers, hook) == expected
    # Another network, schedule or annotation.
    others = [
        hash_of(data, 'ltml', 'model.fuse=probs'),
        hash_of(data, 'ltml', 'train_cfg.max_epochs=3'),
        hash_of(data, 'consistency'),
        hash_of(data, 'ltml', 'data_prefix=cropped'),
        hash_of(data, 'ltml', 'default_hooks.ema.type=EMAHook'),
        hash_of(data, 'ltml', 'default_hooks.checkpoint.save_best=mAP'),
        hash_of(data, 'ltml', 'default_hooks.checkpoint.save_best=mAP_tail'),
    ]
    labels = (moved / 'train.json').read_text()
    (moved / 'train.json').write_text(labels.replace('[0, 2]', '[1, 2]'))
    others.append(hash_of(moved, 'ltml'))
    # Other weights under the same name.
    for content in 'ab':
        (tmp_path / 'weights').write_text(content)
        others.append(hash_of(data, 'ltml', f'load_from={tmp_path}/weights'))
    assert len({expected, *others}) == 11


def test_a_changed_row_may_be_given_by_one_of_its_tests():
    text = 'a-05+flip=ltml,x.y=[1,2],model.fuse=probs'
    lines, (row,) = parse_rows([text, 'a-05'])
    assert [str(line) for line in lines] == ['a-05+flip', 'a-05']
    assert row.name == 'a-05'
    # Commas within brackets belong to the value.
    assert row.overrides == {'x.y': [1, 2], 'model.fuse': 'probs'}


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        (['nothing'], 'nothing: expected one of erm'),
        (['a=nothing,b=c'], 'a=nothing,b=c: expected one of erm'),
        (['a=ltml'], 'or a changed row with'),
        (['../a=ltml,b=c'], 'has letters, digits, _ and -'),
        (['+flip'], 'has letters'),
        (['erm=ltml,b=c'], 'a name of its own'),
        (['ltml', 'ltml'], 'ltml twice'),
        (['a=ltml,b=c', 'a=ltml,b=d'], 'a twice'),
        (['a+flip=ltml,b=c', 'a=ltml,b=d'], 'a twice'),
        (['ltml+nothing'], 'no variant .*, merged'),
        (['ltml+'], 'no variant'),
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


@pytest.mark.parametrize(
    ('flag', 'number'), [('--images-per-step', 33), ('--epoch-images', 5)]
)
def test_images_that_cannot_be_shared_are_refused_at_once(
    flag, number, tmp_path
):
    words = f'{flag} {number} must be a multiple of 2, the streams of row two'
    with pytest.raises(ValueError, match=words):
        compare.main(['--data=voc', f'--out={tmp_path}', f'{flag}={number}'])
