"""The command line of tools/test.py."""

import json

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS
from PIL import Image

from ltml_mm.apis.checkpoint import CheckpointError
from ltml_mm.apis.test import draw_predictions, parse_args
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'toy.py').write_text(CONFIG + TTA)
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


def test_tta_wraps_the_model_and_shows_it_both_views(folder):
    cfg = config_of('--tta')
    assert cfg.model.type == 'CollaborativeTTA'
    assert cfg.model.module.type == 'ToyModel'
    load, views = cfg.test_dataloader.dataset.pipeline
    assert load == LOAD
    flips, pack = views['transforms']
    assert [flip['prob'] for flip in flips] == [0.0, 1.0]
    assert pack == [PACK]


def test_pictures_of_all_images_in_their_own_colours(folder):
    rgb = [(200, 30, 60), (10, 220, 90), (30, 40, 250)]
    entries = []
    for name, colour in zip(('a/x', 'b/x', 'b/y'), rgb, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (300, 300), colour).save(f'{name}.png')
        entries.append({'img_path': f'{name}.png', 'gt_label': [1]})
    content = {'metainfo': {'classes': ['dog', 'cat']}, 'data_list': entries}
    (folder / 'test.json').write_text(json.dumps(content))
    dataset = DATASETS.build(
        dict(
            type='LongTailMultiLabelDataset',
            ann_file='test.json',
            pipeline=[dict(type='LoadCheckedImage'), PACK],
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
    draw_predictions(dataset, predictions, folder / 'out')
    names = ['0_x.png', '1_x.png', '2_y.png']
    assert sorted(p.name for p in (folder / 'out').iterdir()) == names
    for name, colour in zip(names, rgb, strict=True):
        picture = np.asarray(Image.open(folder / 'out' / name))
        assert (picture[150:] == colour).all()
        assert (picture[:100] != colour).any()


def test_a_config_without_what_tta_needs(folder):
    (folder / 'toy.py').write_text(CONFIG)
    with pytest.raises(ValueError, match=r'--tta needs tta_model=dict\('):
        config_of('--tta')


def test_the_checkpoint_is_read_first(folder):
    (folder / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth'):
        config_of()
