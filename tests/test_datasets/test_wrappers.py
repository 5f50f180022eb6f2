"""Sets put together or cut: the counts are those of the images drawn."""

import json
import re
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import ConcatDataset
from mmengine.registry import DefaultScope
from mmpretrain.datasets import KFoldDataset, MultiLabelDataset
from mmpretrain.registry import DATASETS

from ltml_mm import datasets
from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.config import complete_config, training_dataset
from ltml_mm.datasets.annotations import training_metainfo

COUNTS = ['class_counts', 'num_train_images']
#: Counts 3, 1, 1 and 1, 0, 2.
SETS = {'a': [[0], [0, 1], [0], [2]], 'b': [[2], [0, 2], []]}


@pytest.fixture
def configs(tmp_path):
    result = []
    for name, lists in SETS.items():
        entries = [
            {'img_path': f'{i}.png', 'gt_label': row}
            for i, row in enumerate(lists)
        ]
        metainfo = {'classes': ['cat', 'cow', 'dog'], 'task_name': name}
        path = tmp_path / f'{name}.json'
        path.write_text(
            json.dumps({'metainfo': metainfo, 'data_list': entries})
        )
        kind = 'LongTailMultiLabelDataset'
        result.append(dict(type=kind, ann_file=str(path), pipeline=[]))
    return result


def statistics(dataset):
    return [training_metainfo(dataset)[key] for key in COUNTS]


WRAPPED = {
    'concat': (dict(type='ConcatDataset'), [4, 1, 3], 7),
    'repeat': (dict(type='RepeatDataset', times=3), [9, 3, 3], 12),
    'fold': (dict(type='KFoldDataset', fold=0, num_splits=2), [1, 0, 1], 2),
}


def build(configs, name):
    wrapper, *_ = WRAPPED[name]
    inner = dict(dataset=configs[0])
    if name == 'concat':
        inner = dict(datasets=configs)
    return DATASETS.build(
        dict(type='TwoStreamDataset', dataset={**wrapper, **inner})
    )


@pytest.mark.parametrize('name', WRAPPED)
def test_counts_are_those_of_the_images_drawn(configs, name):
    dataset = build(configs, name)
    _, counts, images = WRAPPED[name]
    assert [dataset.metainfo[key] for key in COUNTS] == [counts, images]
    assert statistics(dataset) == [counts, images]
    assert len(dataset) == images
    sampler = datasets.ClassAwareMultiLabelSampler(dataset, 40, seed=0)
    drawn = {label for i in sampler for label in dataset.get_cat_ids(i)}
    assert drawn == {k for k, n in enumerate(counts) if n}


def test_wrappers_of_objects_and_of_wrappers(configs):
    sets = [DATASETS.build(config) for config in configs]
    concat = ConcatDataset(sets, ignore_keys=[*COUNTS, 'task_name'])
    assert statistics(concat) == [[4, 1, 3], 7]
    assert datasets.read_labels(concat).num_images == 7
    assert statistics(datasets.TwoStreamDataset(concat)) == [[4, 1, 3], 7]
    fold = KFoldDataset(configs[0], fold=1, num_splits=2)
    assert statistics(fold) == [[2, 1, 0], 2]
    twice = dict(type='ConcatDataset', datasets=configs)
    repeat = dict(type='RepeatDataset', times=2, dataset=twice)
    with pytest.raises(ValueError, match='meta information'):
        DATASETS.build(repeat)
    assert statistics(datasets.TwoStreamDataset(repeat)) == [[8, 2, 6], 14]
    assert 'ignore_keys' not in twice


@pytest.mark.parametrize('own', [None, 'sources', ['sources', COUNTS[0]]])
def test_sets_of_any_loader_may_have_other_counts(configs, own):
    concat = dict(type='ConcatDataset', datasets=configs)
    concat |= {} if own is None else {'ignore_keys': own}
    loader = dict(dataset=dict(type='RepeatDataset', dataset=concat, times=2))
    cfg = ConfigDict(train_dataloader=loader, val_dataloader=loader)
    complete_config(cfg)
    for name in cfg:
        dataset = DATASETS.build(cfg[name].dataset)
        assert len(dataset) == 14
        ignored = dataset.dataset.ignore_keys
        expected = {*COUNTS, 'task_name'} | ({'sources'} if own else set())
        assert {*ignored} == expected
    assert 'test_mode' not in cfg.train_dataloader.dataset.dataset.datasets[0]
    assert cfg.val_dataloader.dataset.dataset.datasets[1].test_mode


def test_a_stock_set_is_found_in_a_wrapper(configs):
    inner = dict(configs[0], type='MultiLabelDataset')
    loader = dict(dataset=dict(type='RepeatDataset', dataset=inner, times=2))
    with DefaultScope.overwrite_default_scope('mmengine'):
        found = training_dataset(ConfigDict(train_dataloader=loader), [])
    assert len(found) == 2 * len(DATASETS.build(configs[0]))


@pytest.mark.parametrize(
    ('wrap', 'words'),
    [
        (lambda sets: sets, 'same classes in the same order, which custom.py'),
        (
            lambda sets: dict(
                type='KFoldDataset',
                num_splits=2,
                dataset=dict(type='ConcatDataset', datasets=sets[:1]),
            ),
            'not fit KFoldDataset: `ConcatDataset` do.* wrapped dataset first',
        ),
    ],
)
def test_what_cannot_be_put_together_is_told(configs, wrap, words, capsys):
    path = Path(configs[1]['ann_file'])
    content = json.loads(path.read_text())
    content['metainfo']['classes'].reverse()
    path.write_text(json.dumps(content))
    wrapped = wrap(configs)
    if isinstance(wrapped, list):
        wrapped = dict(type='ConcatDataset', datasets=wrapped)
    config = dict(type='TwoStreamDataset', dataset=wrapped)
    with pytest.raises(SystemExit):
        run_tool(lambda: DATASETS.build(config).full_init())
    assert re.search(words, capsys.readouterr().err)


def test_a_stock_set_counts_its_images_once_each(configs):
    # What it declares is not compared with its images by MMPretrain.
    metainfo = dict(classes=['cat', 'cow', 'dog'], class_counts=[9, 9, 9])
    stock = MultiLabelDataset(
        configs[0]['ann_file'], metainfo, pipeline=[], lazy_init=False
    )
    assert statistics(stock) == [[3, 1, 1], 4]
    stock.get_cat_ids = lambda index: [1, 1, 0]
    assert statistics(stock) == [[4, 4, 0], 4]


def test_a_set_without_labels_counts_its_images():
    bare = type('Bare', (list,), {'metainfo': dict(class_counts=[2, 1])})
    assert statistics(bare('abcde')) == [[2, 1], 5]


def test_the_test_fold_has_the_groups_of_the_training_fold(configs):
    def fold(test_mode):
        return dict(
            type='KFoldDataset',
            num_splits=2,
            dataset=dict(configs[0]),
            test_mode=test_mode,
        )

    cfg = ConfigDict(
        model=dict(num_classes=None),
        train_dataloader=dict(
            dataset=dict(type='TwoStreamDataset', dataset=fold(False))
        ),
        val_dataloader=dict(dataset=fold(True)),
    )
    complete_config(cfg)
    assert cfg.model.num_classes == 3
    val = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(val) == 2
    assert [val.metainfo[key] for key in COUNTS] == [[1, 0, 1], 2]
