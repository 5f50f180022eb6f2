"""Class-aware and repeat-factor sampling, held against their definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_lists import LabelLists, multi_labels, published, single_labels
from mmengine.registry import DATA_SAMPLERS
from scipy.optimize import linear_sum_assignment

from ltml_mm.datasets import ClassAwareMultiLabelSampler, RepeatFactorSampler

PERSON = 14


def order_of(dataset, length, seed=0, epoch=0):
    sampler = ClassAwareMultiLabelSampler(dataset, length, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


# -- the definition, where every image tells its class -----------------------

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any)


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, length=st.integers(1, 90), seed=st.integers(0, 9))
def test_definition(counts, length, seed):
    dataset = single_labels(*counts)
    order = order_of(dataset, length, seed)
    drawn = [dataset.lists[i][0] for i in order]
    present = {k for k, n in enumerate(counts) if n}

    # Every aligned window of K' draws holds every class once.
    cycle = len(present)
    for start in range(0, length, cycle):
        window = drawn[start : start + cycle]
        assert len(set(window)) == len(window)
        assert set(window) <= present
    # Hence every class is drawn equally often, to one draw.
    times = [drawn.count(k) for k in present]
    assert max(times) - min(times) <= 1

    # A class goes through all its images before one repeats.
    for k in present:
        images = [i for i, c in zip(order, drawn, strict=True) if c == k]
        for start in range(0, len(images), counts[k]):
            part = images[start : start + counts[k]]
            assert len(set(part)) == len(part)


def test_lists_are_shuffled_anew_at_each_cycle():
    dataset = single_labels(6, 6, 6, 6, 6)
    order = order_of(dataset, 150)
    classes = [dataset.lists[i][0] for i in order]
    windows = {tuple(classes[i : i + 5]) for i in range(0, 150, 5)}
    # 30 cycles of 120 orders: hardly any repeats.
    assert len(windows) > 20
    for k in range(5):
        images = [i for i in order if dataset.lists[i] == [k]]
        assert len({tuple(images[i : i + 6]) for i in range(0, 30, 6)}) == 5


@pytest.mark.parametrize('position', [0, 4])
def test_each_position_draws_classes_and_images_uniformly(position):
    dataset = single_labels(1, 2, 7, 30, 5)
    sampler = ClassAwareMultiLabelSampler(dataset, 15, seed=0)
    times = 6000
    drawn = Counter(
        int(sampler.order(epoch, 15)[position]) for epoch in range(times)
    )
    counts = [1, 2, 7, 30, 5]
    for image in range(45):
        share = 1 / 5 / counts[dataset.lists[image][0]]
        deviation = np.sqrt(times * share * (1 - share))
        assert abs(drawn[image] - times * share) < 5 * deviation


# -- images with several labels ----------------------------------------------


@pytest.mark.parametrize('seed', range(4))
def test_every_cycle_can_be_dealt_out_to_the_classes(seed):
    dataset = multi_labels(seed=seed)
    order = order_of(dataset, 70, seed)
    for start in range(0, 70, 7):
        images = order[start : start + 7]
        fits = [[k in dataset.lists[i] for k in range(7)] for i in images]
        rows, columns = linear_sum_assignment(fits, maximize=True)
        assert np.array(fits)[rows, columns].all()


# -- classes without an image ------------------------------------------------


@pytest.mark.parametrize(
    ('names', 'said'), [(['cat', 'dog', 'cow', 'hen'], 'dog, hen'), (None, 1)]
)
def test_empty_classes_are_skipped_and_named_once(monkeypatch, names, said):
    warnings = []
    monkeypatch.setattr(
        'ltml_mm.datasets.samplers.class_aware.print_log',
        lambda message, logger, level: warnings.append((level, message)),
    )
    ClassAwareMultiLabelSampler(single_labels(1, 2), 10, seed=0)
    sampler = ClassAwareMultiLabelSampler(
        LabelLists([[0], [2]], names), 10, seed=0
    )
    for number in range(3):
        sampler.set_epoch(number)
        assert Counter(sampler) == {0: 5, 1: 5}
    ((level, message),) = warnings
    assert level == 30
    assert message.endswith(f': {said}')


def test_a_set_without_any_label_is_refused():
    with pytest.raises(
        ValueError, match='no image of the training set has a label'
    ):
        ClassAwareMultiLabelSampler(LabelLists([[], []]), 10)


# -- the published sets ------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'length'), [('voc_lt', 3875), ('coco_lt', 22560)]
)
def test_epoch_lengths_of_the_reference_protocol(name, length):
    sampler = DATA_SAMPLERS.build(
        dict(
            type='ClassAwareMultiLabelSampler', dataset=published(name), seed=0
        )
    )
    assert len(sampler) == len(list(sampler)) == length


def test_sampling_facts_of_voc_lt():
    dataset = published('voc_lt')
    sampler = ClassAwareMultiLabelSampler(dataset, seed=0)
    epochs = 40
    draws = np.concatenate([sampler.order(e, 3875) for e in range(epochs)])
    labels = np.zeros((1142, 20), bool)
    for image, row in enumerate(dataset.lists):
        labels[image, row] = True

    # The definition: a class uniformly, then one of its images uniformly.
    chance = (labels / labels.sum(0) / 20).sum(1)
    exposure = chance @ labels
    assert round(100 * exposure[PERSON], 1) == 76.8
    assert round(exposure.max() / exposure.min(), 1) == 15.3
    assert round(1 / (chance**2).sum()) == 274

    share = np.bincount(draws, minlength=1142) / len(draws)
    drawn = share @ labels
    assert abs(100 * drawn[PERSON] - 76.8) < 0.3
    assert abs(drawn.max() / drawn.min() - 15.3) < 0.2
    assert abs(1 / (share**2).sum() - 274) < 3
    # Image by image: five deviations of independent draws at most.
    bound = 5 * np.sqrt(chance / len(draws)) + 1e-9
    assert (abs(share - chance) < bound).all()


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
