"""Training and testing through the tools' own entry points, on the demo."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ltml_mm.apis import test as testing
from ltml_mm.apis import train as training
from ltml_mm.apis.checkpoint import read_checkpoint

CONFIGS = Path(__file__).parents[1] / 'configs'
SMALL = [
    *('model.backbone.stem_channels=8', 'model.backbone.base_channels=8'),
    *('train_dataloader.sampler.epoch_length=64',),
    *('train_dataloader.num_workers=0',),
    *('train_dataloader.persistent_workers=False',),
    *('default_hooks.logger.interval=1', 'train_cfg.max_epochs=2'),
]
for loader in ('val_dataloader', 'test_dataloader'):
    SMALL += [
        f'{loader}.num_workers=0',
        f'{loader}.persistent_workers=False',
        f'{loader}.dataset.indices=120',
    ]
RUNS = itertools.count()
pytestmark = pytest.mark.usefixtures('quick')


def write_config(path, text):
    """Writes a config that changes the demo's; returns its path."""
    base = CONFIGS / 'ltml_demo.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n', encoding='utf-8')
    return path


def arguments(work_dir, flags, options):
    name = f'experiment_name=run{next(RUNS)}'
    given = ['--work-dir', str(work_dir), *flags, '--cfg-options', *SMALL]
    return [*given, name, *options]


def train(work_dir, *options, config='ltml_demo.py', flags=()):
    rest = arguments(work_dir, flags, options)
    training.main([str(CONFIGS / config), *rest])


def evaluate(work_dir, *flags, config='ltml_demo.py'):
    rest = arguments(work_dir, flags, ())
    testing.main([str(CONFIGS / config), f'{work_dir}/epoch_2.pth', *rest])


def read_json(path):
    return json.loads(Path(path).read_text(encoding='utf-8'))


def logged(work_dir):
    """The scalars of each training step, by step."""
    records = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                records[record['step']] = record
    return records


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    train(work_dir)
    return work_dir


def test_training_logs_every_term_and_reports_every_class(trained):
    records = logged(trained)
    assert sorted(records) == [1, 2, 3, 4]
    for record in records.values():
        terms = ('uniform.loss_cls', 'rebalanced.loss_cls', 'loss_consistency')
        total = sum(record[key] for key in terms)
        assert record['loss'] == pytest.approx(total, rel=1e-4)
        assert record['agreement/rms_difference'] > 0
        assert abs(record['agreement/correlation']) <= 1
    text = json.dumps(read_json(trained / 'val_class_report.json'))
    assert 'red-ring' in text
    assert 'green-disc' in text
    # The statistics travel with the checkpoint.
    checkpoint = read_checkpoint(trained / 'epoch_2.pth')
    counts = checkpoint['meta']['dataset_meta']['class_counts']
    assert max(counts) == 775
    for branch in ('uniform', 'rebalanced'):
        saved = checkpoint['state_dict'][f'loss_cls.{branch}.class_counts']
        assert saved.tolist() == counts


def test_out_holds_scores_that_give_the_metric(trained, tmp_path):
    out = tmp_path / 'result.json'
    evaluate(trained, '--out', str(out))
    result = read_json(out)
    predictions = result['predictions']
    assert len(predictions) == 120
    scores = np.array([p['scores'] for p in predictions])
    target = np.zeros(scores.shape, int)
    for row, prediction in zip(target, predictions, strict=True):
        row[prediction['gt_label']] = 1
    seen = target.any(0)
    expected = average_precision_score(
        target[:, seen], scores[:, seen], average=None
    )
    found = result['metrics']['multi-label/mAP']
    assert found == pytest.approx(100 * expected.mean(), abs=1e-3)
    assert 'multi-label/uniform/mAP_tail' in result['metrics']
    assert not list(tmp_path.glob('*.pkl'))


def test_flip_test_averages_the_mirror_image(trained, tmp_path):
    plain, mirrored, both = (
        tmp_path / f'{name}.json' for name in ('plain', 'mirrored', 'both')
    )
    flip = write_config(
        tmp_path / 'flip.py',
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='RandomFlip',"
        " prob=1.0), dict(type='PackInputs')]))",
    )
    evaluate(trained, '--out', str(plain))
    evaluate(trained, '--out', str(mirrored), config=flip)
    evaluate(trained, '--tta', '--out', str(both))
    logits = []
    for path in (plain, mirrored):
        scores = [p['scores'] for p in read_json(path)['predictions']]
        scores = np.array(scores)
        logits.append(np.log(scores) - np.log1p(-scores))
    expected = 1 / (1 + np.exp(-(logits[0] + logits[1]) / 2))
    found = [p['scores'] for p in read_json(both)['predictions']]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_pictures_are_drawn(trained, tmp_path):
    # The config that the training left is another one than the test's.
    before = (trained / 'ltml_demo.py').read_bytes()
    evaluate(trained, '--show-dir', str(tmp_path))
    assert len(list(tmp_path.glob('*.png'))) == 120
    assert (trained / 'ltml_demo.py').read_bytes() == before
    assert (trained / 'ltml_demo_test.py').is_file()


def test_resume_continues_after_the_last_epoch(trained, tmp_path):
    entries = ('0.end=20', '1.T_max=2', '1.end=2')
    schedule = [f'param_scheduler.{entry}' for entry in entries]
    train(tmp_path, 'train_cfg.max_epochs=1', *schedule)
    # The schedule is that of the whole run; more epochs are asked for.
    change = 'default_hooks.exact_resume.on_change=warn'
    train(tmp_path, change, flags=['--resume'])
    whole, parts = logged(trained), logged(tmp_path)
    assert sorted(parts) == sorted(whole)
    for step, record in whole.items():
        assert parts[step]['loss'] == record['loss'], step


def test_ema_hook_keeps_the_average_of_the_weights(tmp_path):
    config = write_config(
        tmp_path / 'ema.py',
        "custom_hooks = [dict(type='EMAHook', momentum=0.5)]",
    )
    train(tmp_path, 'train_cfg.max_epochs=1', config=config)
    checkpoint = read_checkpoint(tmp_path / 'epoch_1.pth')
    # In the file the averaged weights stand under state_dict.
    average = checkpoint['state_dict']
    source = checkpoint['ema_state_dict']
    for branch in ('uniform', 'rebalanced'):
        name = f'heads.{branch}.fc.weight'
        assert not torch.equal(average[name], source[f'module.{name}'])
    assert (tmp_path / 'val_class_report.json').is_file()


@pytest.mark.parametrize(
    'text',
    [
        'optim_wrapper = dict(accumulative_counts=2)',
        "compile = dict(backend='eager')",
        "model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))",
        "model = dict(bn_streams='separate', branch_init='reinit')",
    ],
    ids=['accumulation', 'compile', 'mixup', 'separate'],
)
def test_options_train(tmp_path, text):
    train(
        tmp_path,
        'train_cfg.max_epochs=1',
        'default_hooks.checkpoint.interval=-1',
        config=write_config(tmp_path / 'options.py', text),
        flags=['--no-validate'],
    )
    records = logged(tmp_path)
    assert len(records) == 2
    assert all(np.isfinite(record['loss']) for record in records.values())
