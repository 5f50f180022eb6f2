"""The command line of tools/test.py."""

import pytest
import torch

from ltml_mm.apis.checkpoint import CheckpointError
from ltml_mm.apis.test import parse_args
from ltml_mm.apis.test import test_config as evaluation_config

PACK = dict(type='PackInputs')
LOAD = dict(type='LoadImageFromFile')
CONFIG = f"""
model = dict(type='ToyModel')
test_cfg = dict()
test_dataloader = dict(dataset=dict(type='ToyData', pipeline=[{LOAD}, {PACK}]))
test_evaluator = dict(type='GroupedAveragePrecision')
"""
TTA = "tta_model = dict(type='CollaborativeTTA')\n"
HOOK = "default_hooks = dict(visualization=dict(type='VisualizationHook'))\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'toy.py').write_text(CONFIG + TTA + HOOK)
    torch.save({'state_dict': {}, 'meta': {}}, 'epoch_1.pth')
    return tmp_path


def config_of(*args):
    """The complete config of a command line."""
    return evaluation_config(parse_args(['toy.py', 'epoch_1.pth', *args]))


def test_plain(folder):
    cfg = config_of()
    assert cfg.load_from == 'epoch_1.pth'
    assert cfg.resume is False
    assert cfg.work_dir == 'work_dirs/toy'
    assert 'enable' not in cfg.default_hooks.visualization


def test_tta_wraps_the_model_and_shows_it_both_views(folder):
    cfg = config_of('--tta')
    assert cfg.model.type == 'CollaborativeTTA'
    assert cfg.model.module.type == 'ToyModel'
    load, views = cfg.test_dataloader.dataset.pipeline
    assert load == LOAD
    flips, pack = views['transforms']
    assert [flip['prob'] for flip in flips] == [0.0, 1.0]
    assert pack == [PACK]


def test_show_dir_enables_the_hook(folder):
    hook = config_of('--show-dir', 'out').default_hooks.visualization
    assert (hook.enable, hook.out_dir) == (True, 'out')


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--tta'], r'--tta needs tta_model=dict\('),
        (['--show-dir', 'out'], r'--show-dir needs visualization=dict\('),
    ],
)
def test_a_config_without_what_a_flag_needs(folder, flags, message):
    (folder / 'toy.py').write_text(CONFIG)
    with pytest.raises(ValueError, match=message):
        config_of(*flags)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--out', 'x.pkl'], 'must end with .json, got x.pkl'),
        (['--tta', '--show-dir', 'out'], 'leave out --tta'),
        (['--launcher', 'ssh'], 'invalid choice'),
    ],
)
def test_flags_that_do_not_fit(folder, capsys, flags, message):
    with pytest.raises(SystemExit) as error:
        config_of(*flags)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_the_checkpoint_is_read_first(folder):
    (folder / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth'):
        config_of()
