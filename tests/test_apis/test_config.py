"""What a config learns from the data before a Runner is built."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.registry import DATASETS

from ltml_mm.apis.config import (
    complete_config,
    dataset_configs,
    fit_to_data,
    load_config,
    read_config,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
CUSTOM = CONFIGS / 'ltml_custom.py'
CLASSES = ['cat', 'cow', 'dog']
TRAIN = [[0], [0, 1], [0], []]
TEST = [[2], [1]]


def write(folder, name, labels, classes=CLASSES):
    data = [
        {'img_path': f'{name}_{i}.jpg', 'gt_label': row}
        for i, row in enumerate(labels)
    ]
    content = {'metainfo': {'classes': classes}, 'data_list': data}
    (folder / f'{name}.json').write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path):
    write(tmp_path, 'train', TRAIN)
    write(tmp_path, 'test', TEST)
    return tmp_path


def load(data, meta=None, config=CUSTOM, **options):
    return load_config(config, {'data_root': str(data), **options}, meta)


def build(config):
    return DATASETS.build({**config, 'pipeline': []})


def test_the_number_of_classes_comes_from_the_data(data):
    assert load(data).model.num_classes == 3


def test_no_workers_are_kept_where_there_are_none(data):
    cfg = load(data, **{'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader.persistent_workers is False
    assert cfg.val_dataloader.persistent_workers is True


@pytest.mark.parametrize('loader', ['val_dataloader', 'test_dataloader'])
def test_test_sets_receive_names_and_training_counts(data, loader):
    dataset = build(load(data)[loader].dataset)
    assert len(dataset) == 2
    # Not its own counts, [0, 1, 1].
    assert dataset.metainfo['class_counts'] == [3, 1, 0]
    assert dataset.metainfo['num_train_images'] == 4
    assert dataset.metainfo['classes'] == CLASSES


def test_the_training_set_is_found_inside_its_wrapper(data):
    cfg = load(data, data_prefix='images')
    info = build(cfg.train_dataloader.dataset.dataset).get_data_info(0)
    assert info['img_path'] == f'{data}/images/train_0.jpg'
    assert 'data_root' not in cfg.train_dataloader.dataset


def test_a_dataset_keeps_a_root_of_its_own(data, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    write(other, 'test', [[0]])
    cfg = load(data, **{'test_dataloader.dataset.data_root': str(other)})
    assert len(build(cfg.test_dataloader.dataset)) == 1
    assert len(build(cfg.val_dataloader.dataset)) == 2


def test_a_number_of_classes_that_is_given_stays(data):
    # The mismatch is the metric's and the loss's to report, by name.
    assert load(data, **{'model.num_classes': 7}).model.num_classes == 7


def test_a_head_inside_a_list_is_filled_in(data):
    heads = [{'num_classes': None}, {'num_classes': 5}]
    cfg = load(data, **{'model.head': {'heads': heads, 'a': (1,)}})
    numbers = [head['num_classes'] for head in cfg.model.head.heads]
    assert numbers == [3, 5]


def test_a_complete_config_needs_no_annotations(data):
    cfg = load(data)
    (data / 'train.json').unlink()
    before = cfg.to_dict()
    complete_config(cfg)
    assert cfg.to_dict() == before


def test_a_checkpoint_makes_training_annotations_needless(data):
    counts = {'class_counts': [30, 20, 10], 'num_train_images': 50}
    meta = {'classes': CLASSES, **counts}
    (data / 'train.json').unlink()
    cfg = load(data, meta)
    assert cfg.model.num_classes == 3
    metainfo = build(cfg.test_dataloader.dataset).metainfo
    assert metainfo == {**metainfo, **meta}


def test_a_checkpoint_without_counts_leaves_them_to_the_data(data):
    cfg = load(data, {'classes': CLASSES})
    metainfo = build(cfg.test_dataloader.dataset).metainfo
    assert metainfo['class_counts'] == [3, 1, 0]


def test_a_test_set_of_other_classes_is_refused(data):
    write(data, 'test', TEST, classes=['cat', 'dog', 'cow'])
    cfg = load(data)
    with pytest.raises(ValueError, match=r'test\.json: its classes'):
        build(cfg.test_dataloader.dataset)


def test_other_configs_need_no_data():
    cfg = load_config(CONFIGS / 'ltml_voc.py')
    assert cfg.model.num_classes == 20
    assert 'metainfo' not in cfg.test_dataloader.dataset


def test_folders_reach_the_published_sets(tmp_path):
    folders = {'data_root': '/x', 'data_prefix': 'y', 'allow_outside': True}
    cfg = load_config(CONFIGS / 'ltml_voc.py', folders)
    datasets = list(dataset_configs(cfg))
    assert [dataset.type for dataset in datasets] == ['VOCLTDataset'] * 3
    for dataset in datasets:
        assert {**dataset, **folders} == dataset
    assert 'data_root' not in cfg.train_dataloader.dataset
    # The config that a training wrote takes another folder, too.
    cfg.dump(tmp_path / 'written.py')
    cfg = load_config(tmp_path / 'written.py', {'data_root': '/z'})
    assert {part.data_root for part in dataset_configs(cfg)} == {'/z'}


def test_a_published_set_validates_on_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('val.json').touch()  # Of no set.
    key = 'val_dataloader'
    cfg = load_config(CONFIGS / 'ltml_voc.py')
    assert cfg[key].dataset.ann_file == 'test.json'
    Path('data/voc_lt').mkdir(parents=True)
    Path('data/voc_lt/val.json').touch()
    cfg = load_config(CONFIGS / 'ltml_voc.py')
    assert cfg[key].dataset.ann_file == 'val.json'


def test_names_and_counts_are_not_in_the_text_of_a_config(data, tmp_path):
    """MMEngine formats it at each checkpoint: minutes for 10,000 classes."""
    given = {'test_dataloader.dataset.metainfo': {'task_name': 'mine'}}
    cfg = load(data, **given)
    text = cfg.pretty_text
    assert 'cow' not in text
    assert "metainfo={'task_name': 'mine'}" in text
    metainfo = build(cfg.test_dataloader.dataset).metainfo
    assert metainfo['task_name'] == 'mine'
    # What a Runner writes into the work directory reads back.
    (tmp_path / 'dumped.py').write_text(text)
    again = load_config(tmp_path / 'dumped.py')
    assert build(again.test_dataloader.dataset).metainfo == metainfo
    assert metainfo['classes'] == CLASSES


@pytest.mark.parametrize('ending', ['py', 'json', 'yaml'])
def test_a_complete_config_is_dumped_in_every_format(data, tmp_path, ending):
    cfg = load(data)
    path = tmp_path / f'config.{ending}'
    cfg.dump(path)
    again = load_config(path)
    assert again.model.num_classes == cfg.model.num_classes
    metainfo = dict(again.test_dataloader.dataset.metainfo)
    assert metainfo == dict(cfg.test_dataloader.dataset.metainfo)
    assert metainfo['class_counts']


def test_short_epochs_are_for_the_processes_of_any_launcher(data, monkeypatch):
    monkeypatch.setenv('SLURM_NTASKS', '2')
    cfg = load(data)
    cfg.launcher = 'slurm'
    fit_to_data(cfg)
    loader = cfg.train_dataloader
    # Four steps of two pairs on each.
    assert (loader.batch_size, loader.sampler.epoch_length) == (2, 16)


def test_a_stock_sampler_keeps_its_epochs(data):
    cfg = load(data)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    fit_to_data(cfg)
    assert cfg.train_dataloader.batch_size == 2


# -- speed -------------------------------------------------------------------


def test_images_are_kept_where_they_are_read_again():
    cfg = load_config(CONFIGS / 'ltml_voc.py', {'image_cache': 2.5})
    kept = [d.get('image_cache') for d in dataset_configs(cfg)]
    assert kept == [2.5, 2.5, None]
    cfg = load_config(CONFIGS / 'ltml_voc.py', {'image_cache': False})
    kept = [d.get('image_cache') for d in dataset_configs(cfg)]
    assert kept == [False, False, None]


@pytest.mark.parametrize(
    'name', ['ltml_voc.py', 'baselines/voc_uniform_bce.py']
)
def test_augmentation_on_the_device_takes_both_ends(name):
    cfg = load_config(CONFIGS / name, {'augment_on': 'device'})
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    moved = [step.type for step in pipeline if step.get('on_device')]
    assert moved == ['PhotoMetricDistortion', 'RandomMirror']
    assert cfg.data_preprocessor.type == 'TwoStreamDataPreprocessor'
    tested = cfg.test_dataloader.dataset.pipeline
    assert not any('on_device' in step for step in tested)


def test_augmentation_elsewhere_is_refused():
    with pytest.raises(ValueError, match="augment_on must be 'worker' or"):
        load_config(CONFIGS / 'ltml_voc.py', {'augment_on': 'gpu'})
    with pytest.raises(ValueError, match='must end with one or both'):
        load_config(CONFIGS / 'ltml_demo.py', {'augment_on': 'device'})
    # One of two sets may have neither.
    cfg = read_config(CONFIGS / 'ltml_voc.py')
    plain = deepcopy(cfg.train_dataloader.dataset.dataset)
    plain.pipeline = [plain.pipeline[0], dict(type='PackInputs')]
    sets = [cfg.train_dataloader.dataset.dataset, plain]
    concat = dict(type='ConcatDataset', datasets=sets)
    cfg.train_dataloader.dataset.dataset = concat
    cfg.augment_on = 'device'
    complete_config(cfg)
    # Packed without the draws, too early, twice, or in another order.
    key = 'train_dataloader.dataset.dataset.pipeline.{}.type'
    for place, kind in (
        *((5, 'PackInputs'), (1, 'RandomMirror'), (2, 'RandomMirror')),
        *((3, 'RandomMirror'), (4, 'PhotoMetricDistortion')),
    ):
        options = {'augment_on': 'device', key.format(place): kind}
        with pytest.raises(ValueError, match=f'this one is .*{kind}'):
            load_config(CONFIGS / 'ltml_voc.py', options)
