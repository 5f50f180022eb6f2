"""Repeat-factor sampling, held against its definition."""

import numpy as np
import pytest
from label_lists import LabelLists

from ltml_mm.datasets import RepeatFactorSampler

#: 16, 4 and 1 of 20 images; the last has no label.
LISTS = [[0]] * 14 + [[0, 1]] * 2 + [[1]] * 2 + [[2], []]
FACTORS = [1.0] * 18 + [2.0, 1.0]  # sqrt(0.2 / 0.05) with the median share


def test_an_image_has_the_largest_factor_of_its_classes():
    sampler = RepeatFactorSampler(LabelLists(LISTS))
    assert sampler.factors == pytest.approx(FACTORS)
    # sqrt(0.45 / 0.2) = 1.5 for the images of class 1.
    sampler = RepeatFactorSampler(LabelLists(LISTS), threshold=0.45)
    expected = [1.0] * 14 + [1.5] * 4 + [3.0, 1.0]
    assert sampler.factors == pytest.approx(expected)


def test_images_are_drawn_by_their_factors():
    sampler = RepeatFactorSampler(
        LabelLists(LISTS), num_samples=24_000, seed=0, threshold=0.45
    )
    drawn = np.bincount(list(sampler), minlength=20) / 24_000
    expected = sampler.factors / sampler.factors.sum()
    assert drawn == pytest.approx(expected, rel=0.03)


def test_a_pass_holds_each_image_a_whole_number_below_or_above():
    sampler = RepeatFactorSampler(LabelLists(LISTS), num_samples=21, seed=1)
    assert np.bincount(list(sampler)).tolist() == [int(f) for f in FACTORS]


def test_an_epoch_follows_from_seed_and_number():
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        sampler = RepeatFactorSampler(LabelLists(LISTS), 50, seed=seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]
    # A shorter epoch is the beginning of a longer one.
    short = RepeatFactorSampler(LabelLists(LISTS), 10, seed=0)
    assert list(short) == orders[0][:10]


@pytest.mark.parametrize(
    ('lists', 'threshold', 'words'),
    [([[], []], None, 'no image'), (LISTS, 0, 'threshold must be positive')],
)
def test_what_cannot_be_drawn_is_refused(lists, threshold, words):
    with pytest.raises(ValueError, match=words):
        RepeatFactorSampler(LabelLists(lists), 4, threshold=threshold)
