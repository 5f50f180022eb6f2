"""Class counts and the head, medium and tail groups."""

import json
from pathlib import Path

import numpy as np
import pytest

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets import LabelTable

DATA = Path(__file__).parents[2] / 'shared/data'


def test_groups_include_their_bounds():
    stats = ClassStatistics((100, 99, 20, 19, 0), num_images=200)
    assert stats.groups() == {'head': [0], 'medium': [1, 2], 'tail': [3, 4]}
    assert stats.group_of() == ['head', *['medium'] * 2, *['tail'] * 2]
    assert stats.groups(head=20, tail=20) == {
        'head': [0, 1, 2],
        'medium': [],
        'tail': [3, 4],
    }


def test_groups_refuse_crossed_bounds():
    with pytest.raises(ValueError, match='tail=30 must not be larger'):
        ClassStatistics((1,), 1).groups(head=20, tail=30)


@pytest.mark.parametrize('name', ['voc_lt', 'coco_lt'])
def test_groups_are_the_published_ones(name):
    file = DATA / f'{name}_groups.json'
    if not file.exists():
        pytest.skip(f'reference data not found: {file}')
    published = json.loads(file.read_text())
    rows = (DATA / f'{name}_train.txt').read_text().splitlines()
    labels = [[int(k) for k in row.split()[1:]] for row in rows]
    table = LabelTable.from_lists(labels)
    stats = table.statistics(20 if 'voc' in name else 80)
    assert list(stats.counts) == published['class_counts']
    groups = stats.groups()
    assert groups['head'] == published['groups']['head']
    assert groups['medium'] == published['groups']['middle']
    assert groups['tail'] == published['groups']['tail']


@pytest.mark.parametrize(
    'value', [-1, 1.5, True, '3', None, float('nan'), float('inf'), [1]]
)
def test_bad_counts_are_named(value):
    with pytest.raises(ValueError, match='the count of class 1 must be'):
        ClassStatistics((2, value), 5)
    with pytest.raises(ValueError, match='num_images must be'):
        ClassStatistics((0,), value)


def test_numpy_counts_become_plain_ints():
    stats = ClassStatistics(tuple(np.array([3, 1])), np.int64(4))
    assert stats == ClassStatistics((3, 1), 4)
    # They go into JSON and into checkpoints.
    json.dumps(stats.to_metainfo())


def test_a_count_above_the_images_is_refused():
    with pytest.raises(ValueError, match=r'class 1 has 6 .* more than the 5'):
        ClassStatistics((5, 6), 5)


def test_metainfo_round_trip():
    stats = ClassStatistics((5, 2), 9)
    meta = {'classes': ('a', 'b'), **stats.to_metainfo()}
    assert ClassStatistics.from_metainfo(meta) == stats


def test_metainfo_without_images_takes_the_least_that_fits():
    meta = {'class_counts': [5, 2]}
    assert ClassStatistics.from_metainfo(meta).num_images == 5


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ({}, 'no "class_counts"'),
        ({'class_counts': [1], 'classes': 'ab'}, '1 entries for 2 classes'),
        ({'class_counts': 3}, 'must be a list'),
        ({'class_counts': '33'}, 'must be a list'),
        ({'class_counts': ['x']}, 'the count of class 0 must be'),
        ({'class_counts': [4], 'num_train_images': 3}, 'more than the 3'),
        ({'class_counts': [4], 'num_train_images': 'x'}, 'num_images must be'),
    ],
)
def test_bad_metainfo_is_named(meta, message):
    with pytest.raises(ValueError, match=message):
        ClassStatistics.from_metainfo(meta)
