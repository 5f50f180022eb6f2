"""The command lines of tools/train.py and tools/test.py."""

import json

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from PIL import Image
from tiny_run import BATCH, write_run

from ltml_cli import parse
from ltml_mm.apis import test as evaluation
from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.train import main, training_config

CONFIG = """
model = dict(type='ToyModel')
train_dataloader = dict(batch_size=8, dataset=dict(type='ToyData'))
val_cfg = dict()
val_dataloader = dict(dataset=dict(type='ToyData'))
val_evaluator = dict(type='GroupedAveragePrecision')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
"""

PACK = dict(type='PackInputs')
LOAD = dict(type='LoadImageFromFile')
TEST_CONFIG = f"""
model = dict(type='ToyModel')
test_cfg = dict()
test_dataloader = dict(dataset=dict(type='ToyData', pipeline=[{LOAD}, {PACK}]))
test_evaluator = dict(type='GroupedAveragePrecision')
"""
TTA = "tta_model = dict(type='CollaborativeTTA')\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'toy.py').write_text(CONFIG)
    return tmp_path


def config_of(*args):
    """The complete config of a command line."""
    return training_config(parse('train', ['toy.py', *args]))


def test_plain(folder):
    cfg = config_of()
    assert cfg.work_dir == 'work_dirs/toy'
    assert cfg.launcher == 'none'
    assert cfg.val_cfg is not None
    assert 'type' not in cfg.optim_wrapper
    assert not cfg.get('resume')
    cfg = config_of('--no-validate')
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None


def test_work_dir_comes_from_the_command_line_first(folder):
    option = ('--cfg-options', 'work_dir=of the config')
    assert config_of(*option).work_dir == 'of the config'
    assert config_of(*option, '--work-dir', 'mine').work_dir == 'mine'


def test_amp(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = config_of('--amp')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    fixed = config_of('--amp', '--cfg-options', 'optim_wrapper.loss_scale=64.')
    assert fixed.optim_wrapper.loss_scale == 64
    guarded = 'optim_wrapper.type=GuardedOptimWrapper'
    for kind in (guarded, guarded.replace('Optim', 'AmpOptim')):
        cfg = config_of('--amp', '--cfg-options', kind)
        assert cfg.optim_wrapper.type == 'GuardedAmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'float16'
    cfg = config_of('--amp', 'bf16')
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.optim_wrapper.loss_scale == dict(enabled=False)


def test_amp_where_it_cannot_be(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    other = 'optim_wrapper.type=ApexOptimWrapper'
    with pytest.raises(ValueError, match='ApexOptimWrapper'):
        config_of('--amp', '--cfg-options', other)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match=r'a GPU.*; leave out --amp'):
        config_of('--amp')
    with pytest.raises(ValueError, match=r'with GuardedOptimWrapper give'):
        config_of('--amp', 'bf16')
    guarded = 'optim_wrapper.type=GuardedOptimWrapper'
    cfg = config_of('--amp', 'bf16', '--cfg-options', guarded)
    assert cfg.optim_wrapper.type == 'GuardedAmpOptimWrapper'


def test_auto_scale_lr_counts_pairs(folder, monkeypatch):
    """Not images: a step of 8 pairs has 16 of them."""
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')
    arguments = [str(write_run(folder)), '--auto-scale-lr', '--no-validate']
    options = (
        'optim_wrapper.optimizer.lr=0.01',
        'train_dataloader.sampler.epoch_length=8',
        'train_cfg.max_epochs=1',
        'custom_hooks=[]',
    )
    cfg = training_config(
        parse('train', [*arguments, '--cfg-options', *options])
    )
    assert cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.train_dataloader.batch_size == BATCH == 8
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    assert runner.optim_wrapper.get_lr()['lr'] == [
        pytest.approx(0.01 * 8 / 32)
    ]


def test_auto_scale_lr_needs_its_base(folder):
    with pytest.raises(ValueError, match=r'toy\.py has no auto_scale_lr'):
        config_of('--auto-scale-lr')


def test_resume_from_the_latest_or_a_checkpoint(folder):
    torch.save({'state_dict': {}, 'meta': {}}, 'a b.pth')
    for name in ([], ['auto'], ['a b.pth']):
        cfg = config_of(
            '--resume', *name, '--cfg-options', 'load_from=other.pth'
        )
        assert cfg.resume
        assert cfg.load_from == ('a b.pth' if name == ['a b.pth'] else None)


def test_overrides(folder):
    first = (
        '--cfg-options',
        'env_cfg.mp_cfg.x=[1, 2]',
        'optim_wrapper.optimizer.lr=1e-3',
    )
    cfg = config_of(*first, '--cfg-options', 'work_dir=my data/a=b')
    assert cfg.work_dir == 'my data/a=b'
    assert cfg.env_cfg.mp_cfg.x == [1, 2]
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.001)


def test_expected_errors_become_one_line(capsys, monkeypatch):
    monkeypatch.delenv('LTML_TRACEBACK', raising=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')

    def tool():
        raise torch.distributed.DistNetworkError('port: 1, in use\nstack')

    for broken, line in (
        (tool, 'error: port: 1, in use\n'),
        (lambda: main(['no.py']), 'error: config not found: no.py\n'),
    ):
        with pytest.raises(SystemExit) as error:
            run_tool(broken)
        assert error.value.code == 1
        assert capsys.readouterr().err == line


@pytest.fixture
def tested(folder):
    (folder / 'toy.py').write_text(TEST_CONFIG + TTA)
    torch.save({'state_dict': {}, 'meta': {}}, 'epoch_1.pth')
    return folder


def evaluation_of(*args):
    """The complete config of a command line of tools/test.py."""
    arguments = ['toy.py', 'epoch_1.pth', *args]
    return evaluation.test_config(parse('test', arguments))


def test_plain_test(tested):
    cfg = evaluation_of()
    assert cfg.load_from == 'epoch_1.pth'
    assert cfg.resume is False
    assert cfg.work_dir == 'work_dirs/toy'


def test_tta_wraps_the_model_and_shows_it_both_views(tested):
    cfg = evaluation_of('--tta')
    assert cfg.model.type == 'CollaborativeTTA'
    assert cfg.model.module.type == 'ToyModel'
    load, views = cfg.test_dataloader.dataset.pipeline
    assert load == LOAD
    flips, pack = views['transforms']
    assert [flip['prob'] for flip in flips] == [0.0, 1.0]
    assert pack == [PACK]


def test_pictures_of_all_images_in_their_own_colours(tested):
    rgb = [(200, 30, 60), (10, 220, 90), (30, 40, 250)]
    entries = []
    for name, colour in zip(('a/x', 'b/x', 'b/y'), rgb, strict=True):
        (tested / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (320, 300), colour).save(f'{name}.png')
        entries.append({'img_path': f'{name}.png', 'gt_label': [1]})
    content = {'metainfo': {'classes': ['dog', 'cat']}, 'data_list': entries}
    (tested / 'test.json').write_text(json.dumps(content))
    dataset = DATASETS.build(
        dict(
            type='LongTailMultiLabelDataset',
            ann_file='test.json',
            pipeline=[
                dict(type='LoadCheckedImage'),
                dict(type='Resize', scale=(32, 32)),
                PACK,
            ],
        )
    )
    predictions = [
        dict(
            img_path=dataset.get_data_info(index)['img_path'],
            scores=[0.9, 0.2],
            pred_label=[0],
            gt_label=[1],
        )
        for index in range(3)
    ]
    evaluation.draw_predictions(dataset, predictions, tested / 'out')
    names = ['0_x.png', '1_x.png', '2_y.png']
    assert sorted(p.name for p in (tested / 'out').iterdir()) == names
    for name, colour in zip(names, rgb, strict=True):
        picture = np.asarray(Image.open(tested / 'out' / name))
        assert picture.shape == (300, 320, 3)
        assert (picture[150:] == colour).all()
        assert (picture[:100] != colour).any()


def test_a_config_without_what_tta_needs(tested):
    (tested / 'toy.py').write_text(TEST_CONFIG)
    with pytest.raises(ValueError, match=r'--tta needs tta_model=dict\('):
        evaluation_of('--tta')
