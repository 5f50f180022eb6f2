"""From a training to thresholds, and to what every tool makes of them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_training import LABELS, extend, write_data, write_small

from ltml_mm.apis import MultiLabelInferencer, merge, predict, train
from ltml_mm.apis import test as testing
from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.decisions.selection import main, no_validation
from ltml_mm.decisions.thresholds import read_thresholds, weights_digest

pytestmark = pytest.mark.usefixtures('quick')
VALIDATION = [[0], [0, 1], [1], [], [0], [2, 0], [1], [0], [0, 2], [1]]


def add_set(data, name, labels, prefix):
    """Adds an annotation file with pictures of its own."""
    write_data(data / prefix, labels)
    content = json.loads((data / prefix / 'train.json').read_text())
    for entry in content['data_list']:
        entry['img_path'] = f'{prefix}/{entry["img_path"]}'
    (data / name).write_text(json.dumps(content))


@pytest.fixture(scope='module')
def trained(tmp_path_factory, quick):
    """A training with validation images: its folder."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_small(folder)
    add_set(folder / 'data', 'val.json', VALIDATION, 'v')
    # A training reads no test set, for its thresholds neither.
    (folder / 'data' / 'test.json').write_text('not to be read')
    extend(
        config,
        "custom_hooks = [dict(type='EMAHook', momentum=0.5)]\n"
        'train_cfg = dict(max_epochs=2)\nlog_level = "INFO"\n',
        'ema.py',
    )
    train.main([str(folder / 'ema.py')])
    add_set(folder / 'data', 'test.json', LABELS, 't')
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """The checkpoint, its config and thresholds in a folder of their own."""
    for name in ('epoch_2.pth', 'thresholds.json'):
        shutil.copy(trained / 'work' / name, tmp_path)
    return [str(trained / 'ema.py'), str(tmp_path / 'epoch_2.pth')]


def test_training_ends_with_thresholds(trained):
    found = read_thresholds(trained / 'work' / 'thresholds.json')
    checkpoint = read_checkpoint(trained / 'work' / 'epoch_2.pth')
    assert found.model == {
        'name': 'epoch_2.pth',
        'sha256': weights_digest(checkpoint['state_dict']),
    }
    assert found.names == ['common', 'medium', 'rare']
    assert found.chosen_on['file'] == str(trained / 'data' / 'val.json')
    assert [row['positives'] for row in found.classes] == [6, 4, 2]
    report = json.loads(
        (trained / 'work' / 'val_class_report.json').read_text()
    )
    for row, chosen in zip(report['classes'], found.classes, strict=True):
        assert row['threshold'] == chosen['threshold']
        assert row['F1'] == pytest.approx(100 * chosen['f1'][0])
    assert report['summary']['F1'] == pytest.approx(
        np.mean([row['F1'] for row in report['classes']])
    )
    (log,) = (trained / 'work').glob('*/*.log')
    text = log.read_text()
    assert '| Threshold | ' in text
    assert 'At 0.5: macro F1' in text
    assert f'Thresholds for predict.py: {trained}/work' in text


def test_the_tool_finds_what_the_training_found(trained, copied, capsys):
    out = copied[1].replace('epoch_2.pth', 'new.json')
    figure = out.replace('.json', '.png')
    main([*copied, '--device', 'cpu', '--out', out, '--figure', figure])
    own = read_thresholds(trained / 'work' / 'thresholds.json')
    found = read_thresholds(out)
    np.testing.assert_allclose(found.values, own.values, atol=1e-5)
    assert found.model == own.model
    assert found.chosen_on == own.chosen_on
    assert found.calibration['slope'] == pytest.approx(
        own.calibration['slope'], rel=1e-3
    )
    report = found.calibration['report']
    assert set(report['all']['shift']) == {'', 'uniform', 'rebalanced'}
    assert Path(figure).read_bytes()[:4] == b'\x89PNG'
    shown = capsys.readouterr().out
    assert '| macro ' in shown
    assert 'Shift of rebalanced' in shown
    assert 'have not' not in shown
    assert 'has not seen' in shown.replace('\n', ' ')


def test_predict_takes_them_without_being_told(
    copied, tmp_path, trained, capsys
):
    images = trained / 'data' / 't'
    predict.main([*copied, str(images), '--out', str(tmp_path / 'a')])
    shown = capsys.readouterr()
    assert '| Threshold' in shown.out
    assert shown.err == '' or 'guess' not in shown.err
    content = json.loads((tmp_path / 'a' / 'predictions.json').read_text())
    assert content['threshold'] is None
    assert content['thresholds'] == str(tmp_path / 'thresholds.json')
    values = read_thresholds(tmp_path / 'thresholds.json').values
    for record in content['predictions']:
        scores = np.array([*record['scores'].values()])
        names = np.array([*record['scores']])[scores >= values]
        assert {label['name'] for label in record['labels']} == {*names}
    calibrated = tmp_path / 'b'
    predict.main(
        [*copied, str(images), '--calibrated', '--out', str(calibrated)]
    )
    other = json.loads((calibrated / 'predictions.json').read_text())
    thresholds = read_thresholds(tmp_path / 'thresholds.json')
    for old, new in zip(
        content['predictions'], other['predictions'], strict=True
    ):
        # Other scores, the same decisions.
        assert {x['name'] for x in old['labels']} == {
            x['name'] for x in new['labels']
        }
        expected = thresholds.calibrate([*old['scores'].values()])
        assert [*new['scores'].values()] == pytest.approx([*expected])
        for label in new['labels']:
            assert label['score'] >= label['threshold'] - 1e-6


def test_predict_says_that_a_half_is_a_guess(
    copied, trained, tmp_path, capsys
):
    (tmp_path / 'thresholds.json').unlink()
    image = trained / 'data' / 't' / '0.png'
    predict.main([*copied, str(image)])
    shown = capsys.readouterr()
    (line,) = [x for x in shown.err.splitlines() if 'guess' in x]
    assert 'tools/analysis/thresholds.py CONFIG CKPT' in line
    assert 'Threshold' not in shown.out
    for words in (['--threshold', '0.5'], ['--topk', '1']):
        predict.main([*copied, str(image), *words])
        assert 'guess' not in capsys.readouterr().err
    with pytest.raises(ValueError, match='hold the calibration'):
        predict.main([*copied, str(image), '--calibrated'])


def test_training_chooses_none_on_a_copy_of_the_test_set(tmp_path):
    config, data = write_small(tmp_path), tmp_path / 'data'
    add_set(data, 'val.json', VALIDATION, 'v')
    shutil.copy(data / 'val.json', data / 'test.json')
    train.main([str(config)])
    assert not (tmp_path / 'work/thresholds.json').exists()


def test_thresholds_of_another_model_are_refused(
    copied, trained, tmp_path, capsys
):
    path = tmp_path / 'thresholds.json'
    content = json.loads(path.read_text())
    content['model']['sha256'] = '0' * 64
    path.write_text(json.dumps(content))
    image = str(trained / 'data' / 't' / '0.png')
    predict.main([*copied, image])
    assert 'another model, epoch_2.pth' in capsys.readouterr().err
    own = [*copied, '--work-dir', str(tmp_path / 'w')]
    testing.main(own)
    assert 'another model, epoch_2.pth' in capsys.readouterr().out
    given = ['--thresholds', str(path)]
    for run in (
        lambda: predict.main([*copied, image, *given]),
        lambda: testing.main([*own, *given]),
        lambda: MultiLabelInferencer(*copied, 'cpu', thresholds=path),
    ):
        with pytest.raises(ValueError, match='of another model, epoch_2'):
            run()
    with pytest.raises(ValueError, match='name another file with --out'):
        main([*copied])
    nothing = [f'test_{part}=None' for part in ('dataloader', 'cfg')]
    with pytest.raises(ValueError, match=r'\.py has no test_dataloader'):
        testing.main([*own, '--cfg-options', *nothing, 'test_evaluator=None'])


def test_test_measures_them_on_the_test_set(copied, tmp_path):
    out = tmp_path / 'out.json'
    testing.main(
        [*copied, '--out', str(out), '--work-dir', str(tmp_path / 'w')]
    )
    content = json.loads(out.read_text())
    thresholds = read_thresholds(tmp_path / 'thresholds.json')
    scores = np.array([p['scores'] for p in content['predictions']])
    decided = scores >= thresholds.values
    for row, record in zip(decided, content['predictions'], strict=True):
        assert record['pred_label'] == np.flatnonzero(row).tolist()
    truth = np.zeros(decided.shape, bool)
    for row, label in zip(truth, LABELS, strict=True):
        row[label] = True
    expected = 2 * (decided & truth).sum(0) / (decided.sum(0) + truth.sum(0))
    decisions = content['decisions']
    assert [row['f1'][0] for row in decisions['classes']] == pytest.approx(
        expected
    )
    assert decisions['summary']['macro']['f1'][0] == pytest.approx(
        expected.mean()
    )


def test_a_test_on_images_that_chose_says_so(copied, tmp_path, capsys):
    own = ('--work-dir', str(tmp_path / 'w'), '--cfg-options')
    told = 'the thresholds were chosen on these images'
    testing.main([*copied, *own, 'log_level=INFO'])
    assert told not in capsys.readouterr().out
    key = 'test_dataloader.dataset.ann_file'
    testing.main([*copied, *own, f'{key}=val.json'])
    assert told in capsys.readouterr().out


def test_the_merged_network_is_another_model(copied, trained, tmp_path):
    merged = str(tmp_path / 'm' / 'merged.pth')
    merge.main([*copied, merged])
    pair = [merged.replace('.pth', '.py'), merged]
    image = str(trained / 'data' / 't' / '0.png')
    with pytest.raises(ValueError, match='of another model'):
        predict.main(
            [*pair, image, '--thresholds', str(tmp_path / 'thresholds.json')]
        )
    # Its config names no training images, but they lie beside.
    with pytest.raises(ValueError, match='is the training set'):
        main([*pair, '--on', str(trained / 'data' / 'train.json')])
    main([*pair, '--on', 'val', '--calibration', 'temperature'])
    found = read_thresholds(tmp_path / 'm' / 'thresholds.json')
    assert found.chosen_on['file'] == str(trained / 'data' / 'val.json')
    assert found.calibration['offset'] == [0, 0, 0]
    inferencer = MultiLabelInferencer(*pair, 'cpu')
    assert inferencer.thresholds == found
    (record,) = inferencer(image, threshold=0)
    assert len(record['labels']) == 3


def refused(config, *words):
    return no_validation(load_config(config, dict(words)))


def test_the_test_set_is_never_chosen_on(trained, copied, tmp_path):
    data = trained / 'data'
    for name in ('test.json', 'train.json'):
        with pytest.raises(ValueError, match=r'is the (test|training) set'):
            main([*copied, '--on', str(data / name)])
    # A copy under another name, and one with a single image of the test's.
    shutil.copy(data / 'test.json', data / 'copy.json')
    with pytest.raises(ValueError, match=r'copy\.json is the test set'):
        main([*copied, '--on', str(data / 'copy.json')])
    content = json.loads((data / 'val.json').read_text())
    content['data_list'] += json.loads((data / 'test.json').read_text())[
        'data_list'
    ][3:4]
    (data / 'mixed.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'1 images .* test set, .*t/3\.png'):
        main([*copied, '--on', str(data / 'mixed.json')])
    assert no_validation(load_config(copied[0])) is None
    own = ('val_dataloader.dataset.ann_file', 'test.json')
    assert 'is the test set' in refused(copied[0], own)
    # The config names no test set, but one lies beside.
    cfg = load_config(copied[0], dict([own]))
    cfg.test_dataloader = None
    assert 'is the test set' in no_validation(cfg)
    # A test set that is not on this machine is no obstacle.
    cfg = load_config(copied[0])
    cfg.test_dataloader.dataset.ann_file = 'elsewhere.json'
    assert no_validation(cfg) is None


def test_training_images_are_scored_by_networks_without_them(
    trained, copied, tmp_path, capsys
):
    (trained / 'data' / 'val.json').rename(tmp_path / 'val.json')
    options = ['--folds', '2', '--metric', 'recall=0.8', '--cfg-options']
    options.append('train_cfg.max_epochs=1')
    # As in a training, a batch of more than all images is made smaller.
    options.append('train_dataloader.batch_size=64')
    options.append('default_hooks.norms.type=NormStatisticsHook')
    try:
        main([*copied, *options])
        # What is trained is not trained again, also by another path.
        first = (tmp_path / 'thresholds.json').read_text()
        main([*map(os.path.relpath, copied), *options])
        assert (tmp_path / 'thresholds.json').read_text() == first
    finally:
        (tmp_path / 'val.json').rename(trained / 'data' / 'val.json')
    shown = capsys.readouterr().out
    assert '--on train-fraction takes its place' in shown
    found = read_thresholds(tmp_path / 'thresholds.json')
    assert found.metric == 'recall=0.8'
    assert found.chosen_on['kind'] == 'cross-fit'
    seen = []
    for fold in (0, 1):
        folder = tmp_path / 'cross_fit_2' / f'fold_{fold}'
        meta = read_checkpoint(folder / 'epoch_1.pth')['meta']
        seen.append(meta['dataset_meta']['num_train_images'])
        assert meta['dataset_meta']['class_counts'][2] == 1
    # The one image of the rare class is always trained on.
    assert sum(seen) == 11
    assert found.chosen_on['images'] == 9
    assert found.classes[2]['own_threshold'] is None
