"""The hold-out keeps the share of every class."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltml_mm.datasets.splits import stratified_holdout


def draw_labels(seed, num_images, num_classes, low=0.01):
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.7, low, num_classes)
    return (rng.random((num_images, num_classes)) < shares).astype(int)


def test_every_class_keeps_its_share_where_chance_would_not():
    labels = draw_labels(0, 2000, 15)
    test = stratified_holdout(labels, 0.2)
    expected = 0.2 * labels.sum(0)
    off = np.abs(labels[test].sum(0) - expected)
    assert off.max() <= 3
    assert len(test) == pytest.approx(400, abs=3)
    rng = np.random.default_rng(1)
    by_chance = rng.choice(2000, 400, replace=False)
    assert np.abs(labels[by_chance].sum(0) - expected).max() > 6


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 120),
    st.integers(1, 8),
    st.floats(0.1, 0.9),
)
def test_rare_classes_are_dealt_to_the_image(seed, images, classes, fraction):
    labels = draw_labels(seed, images, classes, low=0.05)
    test = stratified_holdout(labels, fraction, seed)
    assert np.all(np.diff(test) > 0)
    counts = labels.sum(0)
    if not counts.any():
        return
    # The rarest class is dealt first: nothing yet disturbs its share.
    rarest = int(np.where(counts > 0, counts, images + 1).argmin())
    held = labels[test, rarest].sum()
    assert abs(held - fraction * counts[rarest]) <= 1


def test_images_without_labels_are_shared_out():
    labels = np.zeros((50, 2), int)
    labels[:10, 0] = 1
    test = stratified_holdout(labels, 0.3)
    assert len(test) == 15
    assert (test < 10).sum() == 3


def test_seed_decides_and_the_global_generator_does_not():
    labels = draw_labels(3, 300, 6)
    first = stratified_holdout(labels, 0.5, seed=1)
    random.seed(0)
    assert first.tolist() == stratified_holdout(labels, 0.5, 1).tolist()
    assert first.tolist() != stratified_holdout(labels, 0.5, 2).tolist()


def test_the_order_of_the_source_does_not_decide():
    # The first images of a sorted source must not be the training set.
    labels = np.zeros((200, 1), int)
    labels[:, 0] = 1
    test = stratified_holdout(labels, 0.5)
    assert 30 < (test < 100).sum() < 70


@pytest.mark.parametrize('fraction', [0, 1, -0.5, 2, float('nan')])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match='between 0 and 1'):
        stratified_holdout(np.eye(4), fraction)
