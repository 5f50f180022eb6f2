"""Splits: the published one to the id, the recipe, the hold-out."""

import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ltml_mm.datasets import splits

DATA = Path(__file__).parents[3] / 'shared' / 'data'
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f'the published lists are not at {DATA}'
)


def made_labels(num_images=3000, num_classes=12):
    """Multi-label rows by integer arithmetic: the same everywhere."""
    images, classes = np.ogrid[:num_images, :num_classes]
    mixed = (images * 7919 + classes * 104729 + images * images * 31) % 1009
    return (mixed < 600 // (classes + 2)).astype(np.uint8)


def reference_split(labels, max_count, min_count, shape, tail, seed):
    """The recipe word by word: plain loops, SciPy's Pareto."""
    num_images, num_classes = labels.shape
    together = np.zeros((num_classes, num_classes))
    for row in labels:
        for j in np.flatnonzero(row):
            together[j] += row
    score = [
        math.fsum(
            together[j, k] / together[j, j]
            for j in range(num_classes)
            if together[j, j]
        )
        for k in range(num_classes)
    ]
    pareto = stats.pareto(b=shape)
    points = np.linspace(pareto.ppf(0), pareto.ppf(tail), num_classes)
    rng = random.Random(seed)
    of_class = [set() for _ in range(num_classes)]
    ranked = sorted(range(num_classes), key=lambda k: -score[k])
    for k, t in zip(ranked, points, strict=True):
        density = pareto.pdf(t) * (max_count - min_count) / shape
        new = int(density + min_count + 1e-9) - len(of_class[k])
        if new > 0:
            every = set()
            for i in range(num_images):
                if labels[i, k]:
                    every.add(i)
            pool = tuple(every - of_class[k])
            for i in rng.sample(pool, min(new, len(pool))):
                for j in range(num_classes):
                    if labels[i, j]:
                        of_class[j].add(i)
        elif new < 0:
            for i in rng.sample(tuple(of_class[k]), -new):
                for j in range(num_classes):
                    if labels[i, j]:
                        of_class[j].discard(i)
    return sorted(set().union(*of_class))


@needs_data
def test_voc_lt_comes_out_as_published():
    rows = (DATA / 'voc2012_trainval_labels.txt').read_text().splitlines()
    ids = [row.split()[0] for row in rows]
    labels = np.zeros((len(rows), 20), int)
    for row, line in zip(labels, rows, strict=True):
        row[[int(k) for k in line.split()[1:]]] = 1
    chosen = splits.VOC_LT.recipe.split(labels)
    published = (DATA / 'voc_lt_official_ids.txt').read_text().split()
    assert sorted(ids[i] for i in chosen) == sorted(published)
    assert len(chosen) == splits.VOC_LT.num_images == 1142
    assert splits.VOC_LT.matches(ids[i] for i in chosen)
    other = splits.ParetoRecipe(800, seed=1).split(labels)
    assert not splits.VOC_LT.matches(ids[i] for i in other)


@needs_data
@pytest.mark.parametrize('name', ['voc_lt', 'coco_lt'])
def test_published_lists_have_the_checksums_of_the_project(name):
    ids = (DATA / f'{name}_official_ids.txt').read_text().split()
    split = {'voc_lt': splits.VOC_LT, 'coco_lt': splits.COCO_LT}[name]
    assert split.matches(reversed(ids))
    assert len(ids) == split.num_images
    assert not split.matches(ids[1:])


def test_same_on_every_python():
    # Pinned from CPython 3.10, 3.11, 3.12 and 3.13.
    chosen = splits.ParetoRecipe(200).split(made_labels())
    assert splits.ids_checksum(chosen.tolist()) == (
        '1fa78230ee83673f3bf1b35dbbb91432a8d041178d6e1708968a35ce8293560f'
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 8),
    st.floats(1, 9),
)
def test_follows_the_recipe(seed, max_count, num_classes, shape):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.02, 0.6, num_classes)
    labels = (rng.random((150, num_classes)) < shares).astype(int)
    recipe = (max_count, 1, shape, 0.99, seed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        chosen = splits.ParetoRecipe(*recipe).split(labels)
    assert chosen.tolist() == reference_split(labels, *recipe)


@pytest.mark.parametrize('shape', [1.0, 6.0, 12.5])
def test_targets_are_scipys_pareto(shape):
    pareto = stats.pareto(b=shape)
    points = np.linspace(1, pareto.ppf(0.9), 40)
    expected = pareto.pdf(points) * (700 - 5) / shape + 5
    targets = splits.ParetoRecipe(700, 5, shape, 0.9).targets(40)
    # int() truncates; a rounding error may stand just below an integer.
    assert np.all(np.asarray(targets) <= expected + 1e-6)
    assert np.all(np.asarray(targets) > expected - 1 - 1e-6)
    assert targets[0] == 700


def test_rank_is_by_sum_of_conditional_shares():
    # Class 2 comes along with every class; 0 and 1 never meet.
    labels = np.array([[1, 0, 1], [0, 1, 1], [0, 1, 1], [0, 0, 0]])
    # P(0|2) = 1/3, P(1|2) = 2/3.
    assert splits.rank_classes(labels) == [2, 1, 0]
    assert splits.rank_classes(np.zeros((3, 2), int)) == [0, 1]


def test_short_class_gives_all_and_warns():
    labels = np.zeros((100, 2), int)
    labels[:30, 0] = 1
    labels[30:, 1] = 1
    with pytest.warns(UserWarning, match=r'0 \(30/50\)'):
        chosen = splits.ParetoRecipe(50, tail=0.0).split(labels)
    assert labels[chosen].sum(0).tolist() == [30, 50]


def test_enough_images_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        chosen = splits.ParetoRecipe(9, 2).split(np.eye(2).repeat(9, 0))
    assert np.all(np.diff(chosen) > 0)


def test_leaves_the_global_generator_alone():
    state = random.getstate()
    first = splits.ParetoRecipe(30).split(made_labels(300, 4))
    random.seed(5)
    again = splits.ParetoRecipe(30).split(made_labels(300, 4))
    random.setstate(state)
    assert first.tolist() == again.tolist()


@pytest.mark.parametrize('dtype', [bool, np.int64, np.float32])
def test_dtype_of_the_labels_does_not_matter(dtype):
    labels = made_labels(400, 5)
    chosen = splits.ParetoRecipe(40).split(labels.astype(dtype))
    assert chosen.tolist() == splits.ParetoRecipe(40).split(labels).tolist()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'max_count': 0}, 'max_count=0'),
        ({'max_count': 3, 'min_count': 4}, 'min_count=4'),
        ({'max_count': 3, 'min_count': -1}, 'min_count=-1'),
        ({'max_count': 3, 'shape': 0}, 'shape'),
        ({'max_count': 3, 'shape': np.inf}, 'shape'),
        ({'max_count': 3, 'tail': 1.0}, 'tail'),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        splits.ParetoRecipe(**options)


# -- the hold-out keeps the share of every class ------------------------------


def draw_labels(seed, num_images, num_classes, low=0.01):
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.7, low, num_classes)
    return (rng.random((num_images, num_classes)) < shares).astype(int)


def test_large_sets_are_dealt_as_ever():
    # Summing the whole matrix for every class would take an hour.
    labels = np.zeros((100_000, 2000), bool)
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 2001)
    classes = rng.choice(2000, 300_000, p=chances / chances.sum())
    labels[np.arange(300_000) // 3, classes] = True
    test = splits.stratified_holdout(labels, 0.2)
    assert len(test) == pytest.approx(20_000, abs=50)
    counts = labels.sum(0)
    off = np.abs(labels[test].sum(0) - 0.2 * counts)
    assert (off <= 2 + counts / 100).all()


def reference_holdout(labels, fraction, seed):
    """The definition: every class is counted anew after each."""
    rng = random.Random(seed)
    rows = labels.astype(bool)
    lacks_images = np.array([1 - fraction, fraction]) * len(rows)
    lacks_class = np.outer([1 - fraction, fraction], rows.sum(0))
    waiting = np.ones(len(rows), bool)
    test = []
    while waiting.any():
        left = rows[waiting].sum(0)
        label = int(np.where(left, left, len(rows) + 1).argmin())
        known = left[label] > 0
        order = np.flatnonzero(waiting & (rows[:, label] | ~known)).tolist()
        rng.shuffle(order)
        for image in order:
            wishes = [
                (lacks_class[p, label] * known, lacks_images[p], rng.random())
                for p in (0, 1)
            ]
            part = int(wishes[1] > wishes[0])
            test += [image] * part
            waiting[image] = False
            lacks_images[part] -= 1
            lacks_class[part] -= rows[image]
    return sorted(test)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 90), st.integers(1, 8))
def test_holdout_equals_its_definition(seed, images, classes):
    labels = draw_labels(seed, images, classes, low=0.05)
    test = splits.stratified_holdout(labels, 0.3, seed)
    assert test.tolist() == reference_holdout(labels, 0.3, seed)


def test_every_class_keeps_its_share_where_chance_would_not():
    labels = draw_labels(0, 2000, 15)
    test = splits.stratified_holdout(labels, 0.2)
    expected = 0.2 * labels.sum(0)
    assert np.abs(labels[test].sum(0) - expected).max() <= 3
    assert len(test) == pytest.approx(400, abs=3)
    by_chance = np.random.default_rng(1).choice(2000, 400, replace=False)
    assert np.abs(labels[by_chance].sum(0) - expected).max() > 6


def test_images_without_labels_are_shared_out():
    labels = np.zeros((50, 2), int)
    labels[:10, 0] = 1
    test = splits.stratified_holdout(labels, 0.3)
    assert len(test) == 15
    assert (test < 10).sum() == 3


def test_seed_decides_and_the_global_generator_does_not():
    labels = draw_labels(3, 300, 6)
    first = splits.stratified_holdout(labels, 0.5, seed=1)
    random.seed(0)
    assert first.tolist() == splits.stratified_holdout(labels, 0.5, 1).tolist()
    assert first.tolist() != splits.stratified_holdout(labels, 0.5, 2).tolist()


@pytest.mark.parametrize('fraction', [0, 1, -0.5, 2, float('nan')])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match='between 0 and 1'):
        splits.stratified_holdout(np.eye(4), fraction)
