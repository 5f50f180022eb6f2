"""Training validates on val.json; test.py alone reads test.json."""

import json

import pytest
from tiny_training import extend, write_small

from ltml_mm.apis import test, train
from ltml_mm.apis.config import load_config

KEY = 'multi-label/mAP'
pytestmark = pytest.mark.usefixtures('quick')
CHOICES = {
    'save_best': f"checkpoint = dict(save_best='{KEY}')",
    'EarlyStoppingHook': 'stop = dict(\n'
    f"    type='EarlyStoppingHook', monitor='{KEY}', min_delta=1000,\n"
    '    patience=1)',
}


def choosing(config, *names, epochs=4):
    """Extends a config so that the validation decides."""
    lines = [f'default_hooks = dict({CHOICES[name]})' for name in names]
    text = f'train_cfg = dict(max_epochs={epochs})\n'
    if len(lines) == 2:
        hooks = ', '.join(CHOICES[name] for name in names)
        lines = [f'default_hooks = dict({hooks})']
    return extend(config, text + '\n'.join(lines))


@pytest.fixture
def config(tmp_path):
    """A set whose validation part is the latter half of its images."""
    config = write_small(tmp_path)
    content = json.loads((tmp_path / 'data/train.json').read_text())
    content['data_list'] = content['data_list'][5:]
    (tmp_path / 'data/val.json').write_text(json.dumps(content))
    return config


def test_the_test_set_is_not_read_in_training(config, tmp_path):
    tested = tmp_path / 'data/test.json'
    content = tested.read_bytes()
    tested.write_text('not to be read')
    changed = choosing(config, 'save_best', 'EarlyStoppingHook')
    train.main([str(changed)])
    # Nothing gains 1000 points: the second validation stops the run.
    work = tmp_path / 'work'
    assert {path.name for path in work.glob('epoch_*.pth')} == {
        'epoch_1.pth',
        'epoch_2.pth',
    }
    report = json.loads((work / 'val_class_report.json').read_text())
    assert sum(c['test_images'] for c in report['classes']) == 7
    (best,) = work.glob('best_multi-label_mAP_epoch_*.pth')
    tested.write_bytes(content)
    test.main([str(changed), str(best), f'--out={tmp_path / "x.json"}'])
    predictions = json.loads((tmp_path / 'x.json').read_text())
    assert len(predictions['predictions']) == 10


@pytest.mark.parametrize(
    'way', ['no val.json', 'a copy', 'a part', 'the last']
)
@pytest.mark.parametrize('name', CHOICES)
def test_nothing_is_chosen_on_the_test_set(config, tmp_path, name, way):
    data, words = tmp_path / 'data', ['randomness.seed=0']
    (data / 'val.json').unlink()
    if way == 'a copy':
        (data / 'val.json').write_bytes((data / 'test.json').read_bytes())
    elif way != 'no val.json':
        val, held = {'a part': (4, '[3,9]'), 'the last': (-6, '[9]')}[way]
        words = ['val_dataloader.dataset.ann_file=test.json']
        words.append(f'val_dataloader.dataset.indices={val}')
        words.append(f'test_dataloader.dataset.indices={held}')
    changed = str(choosing(config, name))
    with pytest.raises(ValueError, match=f'{name} would choose on the test'):
        train.main([changed, '--cfg-options', *words])
    if way == 'a part':  # Other images of the file may choose.
        words[-1] = 'test_dataloader.dataset.indices=[4,9]'
        words.append('train_cfg.max_epochs=1')
        train.main([changed, '--cfg-options', *words])
    assert bool([*(tmp_path / 'work').glob('*.pth')]) == (way == 'a part')


def test_a_file_that_is_named_stays(config):
    key = 'val_dataloader.dataset.ann_file'
    cfg = load_config(config)
    assert cfg.val_dataloader.dataset.ann_file == 'val.json'
    assert cfg.test_dataloader.dataset.ann_file == 'test.json'
    cfg = load_config(config, {key: 'test.json'})
    assert cfg.val_dataloader.dataset.ann_file == 'test.json'
