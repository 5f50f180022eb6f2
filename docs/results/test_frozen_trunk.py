"""Training from the cached features of a frozen trunk."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked_scripts import ForkedPopen
from frozen_trunk import (
    check_cache,
    check_rows,
    image_checksums,
    main,
    make_cache,
    share_cache,
    use_cache,
)
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, MODELS
from tiny_comparison import (
    SMALL_HEAD,
    arguments,
    options,
    planned,
    write_set,
)
from trunk_features import MatmulConv2d, read_index

from ltml_cli.options import config_folder, parse_cfg_options
from ltml_mm.apis.config import load_config
from ltml_mm.apis.test import add_flip_tta
from ltml_mm.experiments.runs import config_hash
from ltml_mm.files import write_json

pytestmark = pytest.mark.usefixtures('quick')

VIEWS = 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='module')
def weights(data, tmp_path_factory):
    """A backbone that both the cache and the networks start from."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    backbone = MODELS.build(read(data).model.backbone)
    backbone.init_weights()
    # BatchNorm that is not the identity.
    generator = torch.Generator().manual_seed(0)
    for name, value in backbone.state_dict().items():
        if name.endswith('running_var'):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.01)
    path = tmp_path_factory.mktemp('weights') / 'backbone.pth'
    torch.save(backbone.state_dict(), path)
    return path


def read(data, weights=None):
    cfg = load_config(
        config_folder() / 'ltml_custom.py', parse_cfg_options(options(data))
    )
    if weights is not None:
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=str(weights)
        )
    return cfg


@pytest.fixture(scope='module')
def cache(data, weights, tmp_path_factory):
    init_default_scope('mmpretrain')
    folder = tmp_path_factory.mktemp('cache') / 'trunk'
    make_cache(read(data, weights), folder, VIEWS)
    return folder


def cached_config(data, weights, cache):
    cfg = read(data, weights)
    use_cache(cfg, cache, VIEWS)
    return cfg


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(
        {**cfg.model, 'data_preprocessor': dict(cfg.data_preprocessor)}
    )
    model.init_weights()
    return model.eval()


def predict(cfg, model):
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    batch = [dataset[index] for index in range(len(dataset))]
    data = {'inputs': [sample['inputs'] for sample in batch]}
    with torch.no_grad():
        inputs = model.data_preprocessor(data, False)['inputs']
        return model(inputs, mode='tensor')


def test_features_give_the_logits_of_their_images(data, weights, cache, quiet):
    images, features = (
        read(data, weights),
        cached_config(data, weights, cache),
    )
    expected = predict(images, build(images))
    found = predict(features, build(features))
    # The cache holds float16.
    assert (found - expected).abs().max() < 0.02 * expected.std()


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=1, stride=2),
        dict(kernel_size=3, padding=1, bias=True),
        dict(kernel_size=(3, 2), stride=(2, 1), padding=(0, 2), dilation=2),
        dict(kernel_size=3, groups=2),
    ],
)
def test_a_product_of_matrices_is_the_convolution(options):
    torch.manual_seed(0)
    found = MatmulConv2d(4, 6, **options).double()
    expected = torch.nn.Conv2d(4, 6, **options).double()
    expected.load_state_dict(found.state_dict())
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    for layer in (found, expected):
        layer(x).square().sum().backward()
    torch.testing.assert_close(found(x), expected(x))
    for own, other in zip(
        found.parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(own.grad, other.grad)


def test_the_mirrored_view_is_the_mirrored_image(data, weights, cache, quiet):
    images = read(data, weights)
    model = build(images)
    pipeline = images.test_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type='RandomFlip', prob=1.0))
    expected = predict(images, model)
    mirrored = cached_config(data, weights, cache)
    mirrored.test_dataloader.dataset.pipeline[0].view = 'mirrored'
    found = predict(mirrored, build(mirrored))
    assert (found - expected).abs().max() < 0.02 * expected.std()


def test_flip_test_averages_both_views(
    data, weights, cache, quiet, quick, tmp_path
):
    cfg = cached_config(data, weights, cache)
    whole = predict(cfg, build(cfg))
    cfg.test_dataloader.dataset.pipeline[0].view = 'mirrored'
    mirrored = predict(cfg, build(cfg))
    cfg.test_dataloader.dataset.pipeline[0].view = 'whole'
    add_flip_tta(cfg)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), 'flip of cached'
    torch.manual_seed(0)
    runner = Runner.from_cfg(cfg)
    runner.model.module.load_state_dict(
        build(cached_config(data, weights, cache)).state_dict()
    )
    runner.model.eval()
    loader = runner.build_dataloader(cfg.test_dataloader)
    found = [
        sample.pred_score
        for batch in loader
        for sample in runner.model.test_step(batch)
    ]
    expected = ((whole + mirrored) / 2).sigmoid()
    torch.testing.assert_close(
        torch.stack(found), expected, rtol=1e-4, atol=1e-4
    )


def test_the_trunk_is_frozen_and_the_last_stage_learns(
    data, weights, cache, quiet
):
    model = build(cached_config(data, weights, cache)).train()
    learning = {
        name.split('.')[1]
        for name, value in model.named_parameters()
        if value.requires_grad and name.startswith('backbone')
    }
    assert learning == {'layer4'}
    assert not model.backbone.layer3.training
    assert model.backbone.layer4.uniform.training


def test_augmented_views_differ_and_are_drawn_by_seed(data, weights, cache):
    features = np.load(cache / 'augmented.npy')
    assert features.shape[:2] == (10, VIEWS)
    assert features.dtype == np.float16
    for views in features:
        assert len({view.tobytes() for view in views}) == VIEWS
    cfg = cached_config(data, weights, cache)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    draws = [
        dataset[{'uniform': 4, 'rebalanced': 4, 'draw': (0, 0, n)}]
        for n in range(20)
    ]
    again = dataset[{'uniform': 4, 'rebalanced': 4, 'draw': (0, 0, 0)}]
    name = next(k for k in read_index(cache)['augmented'] if '/4.png' in k)
    row = read_index(cache)['augmented'][name]
    wanted = {view.astype('f4').tobytes() for view in features[row]}
    seen = {
        d['inputs'][s].permute(1, 2, 0).numpy().tobytes()
        for d in draws
        for s in ('uniform', 'rebalanced')
    }
    assert seen == wanted
    assert torch.equal(
        again['inputs']['uniform'], draws[0]['inputs']['uniform']
    )


def test_views_that_are_augmented_on_the_device_are_the_same(
    data, weights, cache, tmp_path
):
    cfg = load_config(
        config_folder() / 'ltml_custom.py',
        {**parse_cfg_options(options(data)), 'augment_on': 'device'},
    )
    cfg.model.backbone.init_cfg = read(data, weights).model.backbone.init_cfg
    make_cache(cfg, tmp_path / 'trunk', VIEWS)
    views = np.load(tmp_path / 'trunk' / 'augmented.npy')
    assert (views == np.load(cache / 'augmented.npy')).all()
    use_cache(cfg, tmp_path / 'trunk', VIEWS)
    # A run completes the config that it reads.
    cfg.dump(tmp_path / 'run.py')
    load_config(tmp_path / 'run.py', {})


def test_the_cache_of_another_pipeline_or_weights_is_refused(
    data, weights, cache, tmp_path
):
    cfg = read(data, weights)
    cfg.test_dataloader.dataset.pipeline[1].scale = (32, 32)
    with pytest.raises(ValueError, match='another test_pipeline'):
        make_cache(cfg, cache, VIEWS)
    other = tmp_path / 'other.pth'
    state = torch.load(weights, weights_only=True)
    state['conv1.weight'] += 1
    torch.save(state, other)
    with pytest.raises(ValueError, match='another backbone'):
        make_cache(read(data, other), cache, VIEWS)
    with pytest.raises(ValueError, match='another views'):
        make_cache(read(data, weights), cache, VIEWS + 1)


def test_an_image_that_is_not_cached_is_named(data, weights, cache, tmp_path):
    other = write_set(tmp_path / 'others')
    with pytest.raises(ValueError, match=r'10 images are not in .*0\.png'):
        make_cache(read(other, weights), cache, VIEWS)
    cfg = cached_config(other, weights, cache)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with pytest.raises(ValueError, match=r'others.0\.png is not in the cache'):
        dataset[0]


def test_an_image_that_was_replaced_is_named(data, weights, cache):
    image = data / '3.png'
    content = image.read_bytes()
    try:
        image.write_bytes((data / '4.png').read_bytes())
        with pytest.raises(ValueError, match=r'3\.png has changed since'):
            make_cache(read(data, weights), cache, VIEWS)
        image.unlink()
        make_cache(read(data, weights), cache, VIEWS)
    finally:
        image.write_bytes(content)
    # Written anew, but the same.
    make_cache(read(data, weights), cache, VIEWS)


def test_a_cache_without_checksums_is_refused(data, weights, cache, tmp_path):
    index = read_index(cache)
    del index['checksums']
    write_json(tmp_path / 'old/index.json', index)
    with pytest.raises(
        ValueError, match=r'no checksums .*: remove that cache'
    ):
        make_cache(read(data, weights), tmp_path / 'old', VIEWS)


def test_a_broken_image_leaves_no_cache(data, weights, tmp_path, quiet):
    broken = write_set(tmp_path / 'broken')
    (broken / '7.png').write_bytes(b'no image')
    with pytest.raises(Exception, match=r'7\.png'):
        make_cache(read(broken, weights), tmp_path / 'cache', VIEWS)
    assert [path.name for path in tmp_path.iterdir()] == ['broken']


def test_a_dumped_config_trains_by_itself(data, weights, cache, tmp_path):
    cfg = cached_config(data, weights, cache)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.dump(tmp_path / 'cached.py')
    code = (
        'import sys; from mmengine.config import Config; '
        'from mmengine.runner import Runner; '
        'Runner.from_cfg(Config.fromfile(sys.argv[1]))'
    )
    process = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'cached.py')],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_other_backbones_are_refused(data, cache):
    cfg = read(data)
    cfg.model.backbone.type = 'VGG'
    with pytest.raises(ValueError, match='need an MMPretrain ResNet'):
        use_cache(cfg, cache, VIEWS)
    assert json.loads((cache / 'index.json').read_text())['facts']


def test_drawn_images_have_no_checksum(data, tmp_path):
    photo = str(data / '0.png')
    images = {'augmented': {}, 'plain': {photo: 0, '/demo/train/00001': 1}}
    checksums = image_checksums(images)
    assert [*checksums] == [photo]
    index = {'facts': {}, **images, 'checksums': checksums}
    write_json(tmp_path / 'index.json', index)
    check_cache(tmp_path, {}, images)


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('model.backbone.base_channels=16', 'another backbone than row ltml'),
        ('test_dataloader.dataset.pipeline.1.scale=(32,32)', 'test_pipeline'),
        ('test_dataloader.dataset.data_root={other}', 'set of images'),
        ('model.backbone.type=ResNetV1d', 'ResNet, got ResNetV1d'),
    ],
)
def test_a_row_that_needs_other_features_is_named_ahead_of_all(
    override, words, data, tmp_path, monkeypatch
):
    monkeypatch.setenv('PYTHONPATH', '')
    other = write_set(tmp_path / 'other')
    row = f'own=ltml,{override.format(other=other)}'
    args = arguments(data, tmp_path / 'out', ['ltml', row])
    cache = tmp_path / 'cache'
    with pytest.raises(ValueError, match=f'^row own.*{words}'):
        main([f'--cache-trunk={cache}', *args])
    assert not cache.exists()
    assert not (tmp_path / 'out').exists()


def test_rows_of_other_labels_and_losses_share_their_features(data):
    init_default_scope('mmpretrain')
    (data / 'fewer.json').write_text((data / 'train.json').read_text())
    labels = 'train_dataloader.dataset.dataset.ann_file=fewer.json'
    rows = ('ltml', f'plain=erm,{SMALL_HEAD}', f'fewer=ltml,{labels}')
    check_rows({row: planned(data, row)[1] for row in rows}, 3)


def test_the_hash_of_a_run_depends_on_the_features(data, tmp_path, quiet):
    row = 'wide=ltml,model.backbone.base_channels=16'
    found = set()
    for views in (1, 2):
        _, cfg = planned(data, row)
        share_cache({'wide': cfg}, tmp_path / f'cache{views}', views)
        found.add(config_hash(cfg))
    assert len(found) == 2


def test_images_to_choose_on_get_a_cache_of_their_own(data, tmp_path, quiet):
    row = 'wide=ltml,model.backbone.base_channels=16'
    folder = tmp_path / 'cache'
    _, cfg = planned(data, row)
    share_cache({'wide': cfg}, folder, 1)
    before = (folder / 'index.json').read_bytes()
    other = write_set(tmp_path / 'others')
    for _ in range(2):
        _, cfg = planned(data, row)
        cfg.test_dataloader.dataset.data_root = str(other)
        share_cache({'wide': cfg}, folder, 1)
        sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
        assert len(sample['inputs']) == 64  # channels, not an image
    assert (folder / 'index.json').read_bytes() == before
    assert {path.name for path in tmp_path.glob('cache*')} == {
        'cache',
        'cache_more',
    }


def test_rows_are_compared_on_the_cache(data, tmp_path, quiet, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(sys.path))
    monkeypatch.setattr(subprocess, 'Popen', ForkedPopen)
    args = arguments(data, tmp_path / 'out', ['ltml', 'ltml+merged_bn'])
    main([f'--cache-trunk={tmp_path / "cache"}', '--views=2', *args])
    result = json.loads((tmp_path / 'out/ltml/seed_0/result.json').read_text())
    tests = ('fused', 'merged_bn', 'uniform', 'rebalanced')
    assert result['metrics'].keys() == set(tests)
