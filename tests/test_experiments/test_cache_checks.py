"""Which rows can share the cached features of a trunk."""

import pytest
from mmengine.registry import init_default_scope
from tiny_comparison import SMALL_HEAD, arguments, planned, write_set

from ltml_mm.experiments import compare
from ltml_mm.experiments.cache_checks import (
    check_images,
    check_rows,
    image_checksums,
)
from ltml_mm.experiments.cached_trunk import use_cache
from ltml_mm.experiments.run_config import planned_config
from ltml_mm.files import write_json


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('photos'))


def test_drawn_images_have_no_checksum(data, tmp_path):
    photo = str(data / '0.png')
    images = {'augmented': {}, 'plain': {photo: 0, '/demo/train/00001': 1}}
    checksums = image_checksums(images)
    assert [*checksums] == [photo]
    write_json(tmp_path / 'index.json', {**images, 'checksums': checksums})
    check_images(tmp_path, images)


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('model.backbone.base_channels=16', 'another backbone than row ltml'),
        ('test_dataloader.dataset.pipeline.1.scale=(32,32)', 'test_pipeline'),
        ('test_dataloader.dataset.data_root={other}', 'set of images'),
        ('model.backbone.type=VGG', 'ResNet, got VGG'),
    ],
)
def test_a_row_that_needs_other_features_is_named_ahead_of_all(
    override, words, data, tmp_path
):
    other = write_set(tmp_path / 'other')
    row = f'own=ltml,{override.format(other=other)}'
    args = arguments(data, tmp_path / 'out', ['ltml', row])
    cache = tmp_path / 'cache'
    with pytest.raises(ValueError, match=f'^row own.*{words}'):
        compare.main([*args, '--cache-trunk', str(cache)])
    assert not cache.exists()
    assert not (tmp_path / 'out').exists()


def test_rows_of_other_labels_and_losses_share_their_features(data):
    init_default_scope('mmpretrain')
    (data / 'fewer.json').write_text((data / 'train.json').read_text())
    labels = 'train_dataloader.dataset.dataset.ann_file=fewer.json'
    rows = ('ltml', f'plain=erm,{SMALL_HEAD}', f'fewer=ltml,{labels}')
    check_rows({row: planned_config(planned(data, row)) for row in rows}, 3)


def test_a_cache_follows_the_overrides_of_the_rows(data, tmp_path, quiet):
    plan = planned(data, 'wide=ltml,model.backbone.base_channels=16')
    compare.share_cache([plan], tmp_path / 'cache', 1)
    use_cache(planned_config(plan), tmp_path / 'cache', 1)
