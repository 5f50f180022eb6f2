"""Values that are chosen for every row on images that are held out."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from comparison_results import make_result
from mmengine.config import Config
from tiny_comparison import SMALL_HEAD, arguments, write_set

from ltml_cli import parse
from ltml_mm.apis.learning_rate import IMAGES, POWER, RATE
from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.published import VOC_CLASSES
from ltml_mm.experiments import compare, single_run, tuning
from ltml_mm.experiments.rows import Row, build_config, parse_rows
from ltml_mm.experiments.runs import RESULT, config_hash, write_run
from ltml_mm.files import write_json

LR = 'optim_wrapper.optimizer.lr'
ROW = f'own=erm,{SMALL_HEAD}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('photos'))


def command(data, out, *further, row=ROW):
    rates = [a for a in arguments(data, out, [row]) if LR not in a]
    return [*further, *rates]


def search_of(scores, given=None):
    given = [*scores] if given is None else given
    scores = {v: [] if s is None else [s] for v, s in scores.items()}
    return tuning.Search(Row('a', 'erm', {}), 'x.lr', given, scores)


@pytest.mark.parametrize(
    ('scores', 'expected'),
    [
        ({0.1: 1, 0.2: 3, 0.4: 2}, None),
        ({0.1: 1, 0.2: 3, 0.4: 4}, 0.8),
        ({0.1: 5, 0.3: 3}, 0.0333333),
        ({4: 1, 8: 2}, 16),
        # A failed run is no best value, and ends the search on its side.
        ({0.1: 1, 0.2: 3, 0.4: None}, None),
        ({0.1: None, 0.2: None}, None),
        # The lower of equal values; none below 0; another sign is fine.
        ({0.1: 2, 0.2: 2}, 0.05),
        ({0: 3, 0.1: 2}, None),
        ({0: 3, 0.1: 4}, 0.2),
        ({-1: 3, 1: 2}, -3),
        ({'sum': 1, 'mean': 2}, None),
        ({True: 1, False: 2}, None),
    ],
)
def test_the_search_goes_past_an_edge(scores, expected):
    assert search_of(scores).next_value() == expected


def test_the_search_past_an_edge_is_bounded():
    scores = {2.0**n: n for n in range(2)}
    while (value := search_of(scores, [1.0, 2.0]).next_value()) is not None:
        scores[value] = value
    assert [*scores] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a.b=0.2,0.1', ([0.1, 0.2], False)),
        ('a.b=x2,x.5', ([0.5, 2.0], True)),
        ('a.b=[1,2],[3]', ([(1, 2), (3,)], False)),
        ('a.b=sum,mean', (['sum', 'mean'], False)),
        ('a.b=None,1', ([None, 1], False)),
    ],
)
def test_values_of_all_kinds(text, expected):
    assert tuning.parse_tuning([text]) == ('a.b', *expected)


@pytest.mark.parametrize(
    ('texts', 'words'),
    [
        (['lr'], 'expected KEY=V1'),
        (['lr=0.1'], 'two values at least'),
        (['lr=0.1,0.1'], 'twice'),
        (['lr=x1,0.1'], 'with factors'),
        (['lr=x0,x1'], 'no positive number'),
        (['lr=dict(a=1),dict(a=2)'], 'no dict'),
        (['lr=1,2', 'a=1,2'], 'takes one key, got lr=1,2 and a=1,2'),
    ],
)
def test_what_cannot_be_searched_is_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        tuning.parse_tuning(texts)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--tune-on=val.json'], 'need --tune'),
        ([f'--tune={LR}=1,2', '--tune-fraction=1.5'], 'between 0 and 1'),
        ([f'--tune={LR}=1,2', '--tune-on=test.json'], 'is the test set'),
        ([f'--tune={LR}=1,2', '--tune-on=no.json'], 'no no.json here'),
        (['--tune=no.such.key=x1,x2'], 'has None there'),
        (['--tune=model.head.in_channels=1,2'], 'row own sets it'),
        (['--tune=randomness.seed=1,2'], 'the comparison sets it'),
    ],
)
def test_options_that_do_not_fit_are_refused(data, tmp_path, flags, words):
    out = tmp_path / 'out'
    with pytest.raises((ValueError, OSError), match=words):
        compare.main(command(data, out, *flags))
    assert not [*out.glob('**/result.json')]


def test_factors_of_a_rate_that_follows_from_the_classes(data, tmp_path):
    flags = [f'--tune={LR}=x0.5,x1', f'--cfg-options={LR}=None']
    args = parse('compare', [*command(data, tmp_path), *flags])
    _, rows = parse_rows(args.rows)
    (search,) = tuning.plan_searches(args, rows)
    # 3 classes, 4 images of a step.
    own = RATE * 3**POWER * 4 / IMAGES
    assert search.given == pytest.approx([own / 2, own], rel=1e-3)


def held(data, out, *flags, row=ROW):
    """The config of a row that chooses."""
    tune = f'--tune={LR}=1,2'
    args = parse('compare', command(data, out, tune, *flags, row=row))
    _, (row,) = parse_rows(args.rows)
    cfg = build_config(row, args)
    tuning.hold_out(cfg, args)
    return cfg


def build(config):
    return LongTailMultiLabelDataset(
        config.ann_file,
        data_root=config.data_root,
        metainfo=config.get('metainfo'),
        test_mode=config.get('test_mode', False),
    )


def test_training_images_are_held_out_and_no_test_image_read(data, tmp_path):
    cfg = held(data, tmp_path / 'out', '--tune-fraction=0.4')
    parts = cfg.train_dataloader.dataset.dataset, cfg.test_dataloader.dataset
    train, val = map(build, parts)
    paths = [{info['img_path'] for info in part} for part in (train, val)]
    assert [len(part) for part in paths] == [6, 4]
    assert len(paths[0] | paths[1]) == 10
    # The groups are those of the images that are left.
    assert val.metainfo['class_counts'] == train.metainfo['class_counts']
    assert train.metainfo['class_counts'][2] == 1
    assert 'test.json' not in cfg.pretty_text


def test_a_file_of_the_set_serves_where_there_is_one(data, tmp_path):
    own = write_set(tmp_path / 'data')
    text = (own / 'train.json').read_text()
    (own / 'copy.json').write_text(text)
    with pytest.raises(ValueError, match=r'copy\.json is the training set'):
        held(own, tmp_path / 'out', '--tune-on=copy.json')
    (own / 'val.json').write_text(text.replace('.png', '_of_val.png'))
    for flags in ([], ['--tune-on=val.json']):
        cfg = held(own, tmp_path / 'out', *flags)
        assert cfg.test_dataloader.dataset.ann_file == str(own / 'val.json')
        assert cfg.train_dataloader.dataset.dataset.ann_file == 'train.json'
    cfg = held(own, tmp_path / 'out', '--tune-fraction=0.4')
    assert 'tune/data/val_' in cfg.test_dataloader.dataset.ann_file


def test_images_that_choose_checkpoints_choose_no_value(data, tmp_path):
    best = dict(row=f'{ROW},default_hooks.checkpoint.save_best=auto')
    part = '--tune-fraction=0.4'
    with pytest.raises(ValueError, match='checkpoint reads the test set'):
        held(data, tmp_path / 'out', part, **best)
    own = write_set(tmp_path / 'data')
    text = (own / 'train.json').read_text()
    (own / 'val.json').write_text(text.replace('.png', '_of_val.png'))
    with pytest.raises(ValueError, match='give --tune-fraction'):
        held(own, tmp_path / 'out', **best)
    held(own, tmp_path / 'out', part, **best)


def test_published_sets_are_held_out_from_where_their_configs_say(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = [{'img_path': f'{k}.jpg', 'gt_label': [k % 20]} for k in range(60)]
    content = {'metainfo': {'classes': [*VOC_CLASSES]}, 'data_list': rows}
    path = tmp_path / 'data/voc_lt/train.json'
    write_json(path, content)
    write_json(path.with_name('test.json'), content)
    flags = ['--data=voc', f'--out={tmp_path}', f'--tune={LR}=1,2']
    args = parse('compare', [*flags, '--rows=ltml'])
    cfg = build_config(Row('ltml', 'ltml', {}), args)
    before = config_hash(cfg)
    tuning.hold_out(cfg, args)
    parts = cfg.train_dataloader.dataset.dataset, cfg.test_dataloader.dataset
    files = [json.loads(Path(part.ann_file).read_text()) for part in parts]
    train, test = ({x['img_path'] for x in f['data_list']} for f in files)
    assert len(train | test) == 60
    assert 0 < len(test) == 60 - len(train)
    rows[0]['gt_label'] = [5]
    write_json(path, content)
    assert config_hash(build_config(Row('ltml', 'ltml', {}), args)) != before


def test_a_small_set_gives_every_row_as_many_images(data, tmp_path):
    command = ['--data=custom', f'--out={tmp_path}', '--rows=erm']
    options = [f'data_root={data}', f'{LR}=None']
    args = parse('compare', [*command, '--cfg-options', *options])
    found = []
    for row in ('erm', 'ltml'):
        cfg = build_config(Row(row, row, {}), args)
        loader = cfg.train_dataloader
        streams = len(loader.sampler.get('streams') or '1')
        step = streams * loader.batch_size
        epoch = streams * loader.sampler.epoch_length
        found.append((step, epoch, cfg.optim_wrapper.optimizer.lr))
    # Two of each of two streams, four steps.
    assert found[0] == found[1]
    assert found[0][:2] == (4, 16)


def test_pictures_of_the_demo_are_held_out(tmp_path):
    args = parse(
        'compare',
        ['--data=demo', f'--out={tmp_path}', f'--tune={LR}=1,2', '--rows=erm'],
    )
    cfg = build_config(Row('erm', 'erm', {}), args)
    tuning.hold_out(cfg, args)
    train = cfg.train_dataloader.dataset.dataset
    test = cfg.test_dataloader.dataset
    assert (test.split, test.test_mode) == ('train', True)
    assert {*train.indices} | {*test.indices} == {*range(1142)}
    assert not {*train.indices} & {*test.indices}
    assert test.metainfo['num_train_images'] == len(train.indices)


def make_in_process(runs, configs, jobs):
    for run in runs:
        if run.missing():
            write_run(run, configs[run.row])
            single_run.make_run(run.folder)
    return []


def make_up(runs, configs, jobs, scores):
    """Leaves results whose mAP is given by the rate."""
    for run in runs:
        rate = configs[run.row].optim_wrapper.optimizer.lr
        if rate not in scores:
            continue
        result = make_result(run.row, run.seed)
        result['metrics']['fused']['mAP'] = scores[rate] + run.seed
        write_json(run.folder / RESULT, {**result, 'lr': rate})
    return [run for run in runs if run.missing()]


def rates_made(out):
    return {
        json.loads(path.read_text())['lr'] for path in out.glob('*/*/*.json')
    }


def test_every_row_gets_its_best_value(data, tmp_path, monkeypatch, capsys):
    scores = {0.1: 40.0, 0.2: 50.0, 0.4: 50.5, 0.8: 30.0}
    made = partial(make_up, scores=scores)
    monkeypatch.setattr(compare.runs, 'make_runs', made)
    flags = [f'--tune={LR}=0.1,0.2', '--tune-seeds', '0', '2', '--tune-fra=.4']
    compare.main(command(data, tmp_path, *flags))
    # The two that were asked for, and two past the edge.
    assert rates_made(tmp_path / 'tune') == {*scores}
    result = json.loads((tmp_path / 'own/seed_0/result.json').read_text())
    assert result['lr'] == 0.4
    told = capsys.readouterr().out
    assert '51.50 ± 1.41 | -0.50 at 0.2 | -20.50 at 0.8 | 0.2, 0.4' in told
    assert 'tuning.csv' in told.splitlines()[-1]
    with (tmp_path / 'tuning.csv').open() as file:
        lines = [*csv.DictReader(file)]
    assert len(lines) == 8
    chosen = {line['value'] for line in lines if line['chosen'] == 'True'}
    assert chosen == {'0.4'}
    total = [float(x['total']) for x in lines if x['value'] == '0.8']
    assert total == [30, 32]


def test_failed_values_and_edges_are_told(data, tmp_path, monkeypatch, capsys):
    made = partial(make_up, scores={0.1: 40.0, 0.2: 50.0})
    monkeypatch.setattr(compare.runs, 'make_runs', made)
    compare.main(command(data, tmp_path, f'--tune={LR}=0.1,0.2'))
    told = capsys.readouterr().out
    assert 'No result (failed or unfinished): own 0.4.' in told
    assert 'past the edge: own at 0.2.' in told
    # Without any result a row is missing, and the others are reported.
    made = partial(make_up, scores={})
    monkeypatch.setattr(compare.runs, 'make_runs', made)
    with pytest.raises(SystemExit, match='1'):
        compare.main(command(data, tmp_path / 'x', f'--tune={LR}=0.1,0.2'))


def test_a_tuned_comparison_trains_and_is_not_made_again(
    data, tmp_path, monkeypatch, quick, quiet
):
    monkeypatch.setattr(compare.runs, 'make_runs', make_in_process)
    line = command(data, tmp_path, f'--tune={LR}=x1,x8', '--tune-fraction=.4')
    line[line.index(ROW)] = f'own+bn=erm,{SMALL_HEAD}'
    compare.main(line)
    (result,) = tmp_path.glob('own/seed_0/result.json')
    metrics = json.loads(result.read_text())['metrics']
    assert metrics.keys() == {'bn'}  # no test that nobody asked for
    with (tmp_path / 'tuning.csv').open() as file:
        lines = [*csv.DictReader(file)]
    best = max(lines, key=lambda line: float(line['total']))
    assert best['chosen'] == 'True'
    cfg = Config.fromfile(tmp_path / 'own/seed_0/config.py')
    assert cfg.optim_wrapper.optimizer.lr == float(best['value'])
    written = (tmp_path / 'tuning.csv').read_bytes()

    def refuse(*_):
        raise AssertionError('made again')

    monkeypatch.setattr(single_run, 'make_run', refuse)
    compare.main(line)
    assert (tmp_path / 'tuning.csv').read_bytes() == written
    assert np.isfinite(metrics['bn']['mAP'])
