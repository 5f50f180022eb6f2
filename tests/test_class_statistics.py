"""Class counts and the head, medium and tail groups."""

import json
from pathlib import Path

import numpy as np
import pytest

from ltml_mm.class_statistics import ClassStatistics

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
    stats = ClassStatistics.from_labels(labels, 20 if 'voc' in name else 80)
    assert list(stats.counts) == published['class_counts']
    groups = stats.groups()
    assert groups['head'] == published['groups']['head']
    assert groups['medium'] == published['groups']['middle']
    assert groups['tail'] == published['groups']['tail']


def test_counts_against_a_label_matrix():
    rng = np.random.default_rng(0)
    matrix = rng.random((50, 7)) < 0.3
    matrix[:, 6] = False  # a last class without a positive still counts
    labels = [np.flatnonzero(row).tolist() for row in matrix]
    stats = ClassStatistics.from_labels(labels, 7)
    assert stats.counts == tuple(matrix.sum(0).tolist())
    assert stats.num_classes == 7
    assert stats.num_images == 50
    np.testing.assert_array_equal(stats.frequencies, matrix.mean(0))


@pytest.mark.parametrize('label', [-1, 3])
def test_counts_refuse_labels_out_of_range(label):
    with pytest.raises(ValueError, match=f'label {label} .* from 0 to 2'):
        ClassStatistics.from_labels([[0], [label]], 3)


def test_an_empty_set_has_frequencies_zero():
    stats = ClassStatistics.from_labels([], 2)
    assert (stats.counts, stats.num_images) == ((0, 0), 0)
    np.testing.assert_array_equal(stats.frequencies, [0, 0])


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
