"""The learning rate that follows from the classes and images of a step."""

import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from tiny_training import extend, write_small

from ltml_mm.apis import train
from ltml_mm.apis.config import complete_config
from ltml_mm.apis.learning_rate import fill_learning_rate
from ltml_mm.experiments.rows import row_config

LR = 'optim_wrapper.optimizer.lr'

pytestmark = pytest.mark.usefixtures('quick')


def filled(row='ltml', classes=80, **options):
    """A row on data of one's own, with its rate filled in."""
    cfg = row_config(row, 'custom')
    for part in (cfg.model, cfg.model.get('head', {})):
        if 'num_classes' in part:
            part.num_classes = classes
    cfg.merge_from_dict(options)
    reason = fill_learning_rate(cfg)
    return cfg.optim_wrapper.optimizer.lr, reason


@pytest.mark.parametrize('row', ['ltml', 'consistency', 'erm', 'asl', 'ldam'])
@pytest.mark.parametrize(
    ('classes', 'expected'),
    [(1, 0.006), (12, 0.03868), (20, 0.05674), (80, 0.1605)],
)
def test_the_rate_grows_with_the_classes(row, classes, expected):
    # 64 images a step in all rows.
    rate, reason = filled(row, classes)
    assert rate == pytest.approx(expected, rel=1e-3)
    assert f'{classes}^0.75 classes' in reason


def test_the_rate_grows_with_the_images(monkeypatch):
    once, _ = filled()
    quarter, _ = filled(**{'train_dataloader.batch_size': 8})
    assert quarter == pytest.approx(once / 4, rel=1e-3)
    assert filled(**{'optim_wrapper.accumulative_counts': 3})[0] == (
        pytest.approx(3 * once, rel=1e-3)
    )
    monkeypatch.setenv('WORLD_SIZE', '4')
    rate, reason = filled(launcher='pytorch')
    assert rate == pytest.approx(4 * once, rel=1e-3)
    assert '2 streams, 4 processes' in reason


def test_momentum_counts():
    assert filled(**{'optim_wrapper.optimizer.momentum': 0})[0] == (
        pytest.approx(10 * filled()[0], rel=1e-3)
    )


def test_a_rate_that_is_given_stays():
    assert filled(**{LR: 0.3}) == (0.3, None)


def test_a_loss_that_sums_over_the_classes_has_one_rate():
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    options = {'model.head.loss': dict(_delete_=True, **loss)}
    rate, reason = filled('erm', **options)
    assert rate == pytest.approx(0.002)
    assert '0.002 (the loss is a sum over the classes) x 64 im' in reason
    options = {'model.head.loss': None}
    assert filled('erm', **options)[0] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'optim_wrapper.optimizer.type': 'AdamW'}, 'AdamW does not follow'),
        ({'train_dataloader.batch_size': None}, 'no batch_size'),
        ({'model.num_classes': None}, 'no num_classes'),
    ],
)
def test_a_config_without_a_known_rate_is_refused(options, words):
    with pytest.raises(ValueError, match=f'^{LR} is None.*{words}'):
        filled(**options)


def test_nothing_to_train_needs_no_rate():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=None))))
    assert fill_learning_rate(cfg) is None
    assert fill_learning_rate(Config()) is None


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp('small'))


def test_auto_scale_lr_ends_at_the_same_rate(small):
    batch = 10  # twice what the config is meant for
    rates = set()
    for enable in (False, True):
        cfg = Config.fromfile(small)
        cfg.train_dataloader.batch_size = batch
        cfg.auto_scale_lr.update(base_batch_size=5, enable=enable)
        cfg.experiment_name = f'scale {enable}'
        runner = RUNNERS.build(cfg)
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(wrapper, runner.auto_scale_lr)
        rates.add(wrapper.param_groups[0]['lr'])
    assert max(rates) == pytest.approx(min(rates), rel=1e-3)
    expected = 0.006 * 3**0.75 * 2 * batch / 64
    assert max(rates) == pytest.approx(expected, rel=1e-3)


def test_a_training_says_why_its_rate_is_what_it_is(small):
    config = extend(small, "log_level = 'INFO'", 'loud.py')
    train.main([str(config), '--no-validate'])
    work = small.parent / 'work'
    logs = ''.join(path.read_text() for path in work.glob('*/*.log'))
    (line,) = re.findall(r'INFO - learning rate 0\.0.*', logs)
    assert 'x 3^0.75 classes' in line
    assert '5 a batch, 2 streams' in line
    state = torch.load(work / 'epoch_1.pth', weights_only=True)
    rate = state['optimizer']['param_groups'][0]['lr']
    assert rate == pytest.approx(0.006 * 3**0.75 * 10 / 64, rel=1e-3)


def test_a_completed_config_keeps_none_for_the_runner(small):
    cfg = Config.fromfile(small)
    complete_config(cfg)
    assert isinstance(cfg.optim_wrapper, ConfigDict)
    assert cfg.optim_wrapper.optimizer.lr is None
