"""The config of a merged network, from those of the project."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import build_model
from ltml_mm.apis.stock_config import plugin_types, stock_config
from ltml_mm.datasets import VOCLTDataset
from ltml_mm.models.weight_averaging import merge_branches

ROWS = {
    'resnet': dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    'swin': dict(
        type='SwinTransformer',
        arch=dict(embed_dims=16, depths=[1] * 4, num_heads=[1, 1, 2, 2]),
        img_size=64,
        window_size=2,
    ),
    'timm-vit': dict(
        type='TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        **dict(img_size=32, patch_size=8, embed_dim=24, depth=6, num_heads=2),
    ),
}
CONFIGS = Path(__file__).parents[2] / 'configs'
VOC_META = dict(
    classes=list(VOCLTDataset.METAINFO['classes']),
    class_counts=list(range(4, 24)),
    num_train_images=200,
)


def with_backbone(name, row):
    """A config of the project with a small backbone in it."""
    cfg = load_config(CONFIGS / name)
    cfg.model.backbone = {**ROWS[row], 'init_cfg': dict(type='Pretrained')}
    return cfg


@pytest.mark.usefixtures('quiet')
@pytest.mark.parametrize('row', ['resnet', 'swin'])
def test_it_builds_what_the_merged_weights_fit(row):
    cfg = with_backbone('ltml_voc.py', row)
    stock = stock_config(cfg, VOC_META)
    assert plugin_types(stock.to_dict()) == []
    assert 'custom_imports' not in stock
    assert 'init_cfg' not in stock.model.backbone
    merged = merge_branches(build_model(cfg).state_dict())
    network = build_model(stock)
    assert type(network).__module__ == 'mmpretrain.models.classifiers.image'
    network.load_state_dict(merged, strict=True)
    preprocessor = network.data_preprocessor
    assert type(preprocessor).__name__ == 'ClsDataPreprocessor'
    assert preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    assert (preprocessor.to_onehot, preprocessor.num_classes) == (True, 20)


def test_the_test_set_of_voc():
    """Its folders and classes stand in the dataset's class alone."""
    cfg = with_backbone('ltml_voc.py', 'resnet')
    dataset = stock_config(cfg, VOC_META).test_dataloader.dataset
    assert dataset.type == 'MultiLabelDataset'
    assert dataset.pipeline[0].type == 'LoadImageFromFile'
    assert dataset.metainfo.to_dict() == VOC_META
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built, own = (
            DATASETS.build({**config, 'lazy_init': True, 'pipeline': []})
            for config in (dataset, cfg.test_dataloader.dataset)
        )
    assert built.ann_file == own.ann_file
    assert built.data_prefix == own.data_prefix


def test_other_classes_than_the_checkpoint_knows():
    meta = {**VOC_META, 'classes': [f'c{k}' for k in range(20)]}
    with pytest.raises(ValueError, match=r'has the classes .* trained on'):
        stock_config(with_backbone('ltml_voc.py', 'resnet'), meta)


def test_settings_of_the_users_stay():
    cfg = with_backbone('ltml_voc.py', 'resnet')
    cfg.custom_imports = dict(imports=['json', 'ltml_mm', 'ltml_mm.models'])
    cfg.model.head = dict(type='MultiLabelLinearClsHead', topk=2)
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.2))
    cfg.test_dataloader.dataset.indices = 7
    cfg.test_dataloader.dataset.allow_outside = True
    cfg.test_dataloader.batch_size = 3
    stock = stock_config(cfg)
    assert stock.custom_imports.imports == ['json']
    assert stock.model.head.topk == 2
    assert 'train_cfg' not in stock.model
    assert stock.test_dataloader.batch_size == 3
    dataset = stock.test_dataloader.dataset
    assert dataset.indices == 7
    assert 'allow_outside' not in dataset


@pytest.mark.parametrize(
    ('name', 'row', 'kept'),
    [
        ('ltml_demo.py', 'resnet', 'LongTailDemoDataset'),
        ('ltml_voc.py', 'timm-vit', 'TokenPooling'),
    ],
)
def test_without_a_counterpart_the_plugin_stays(name, row, kept):
    if row == 'timm-vit':
        pytest.importorskip('timm')
    stock = stock_config(with_backbone(name, row))
    assert plugin_types(stock.to_dict()) == [kept]
    assert stock.custom_imports.imports == ['ltml_mm']


@torch.no_grad()
def test_the_config_given_stays_as_it_was():
    cfg = with_backbone('ltml_voc.py', 'resnet')
    before = Config(cfg.to_dict()).to_dict()
    stock = stock_config(cfg, VOC_META)
    text = str(stock.to_dict())
    build_model(stock)
    assert cfg.to_dict() == before
    assert str(stock.to_dict()) == text
