"""The uniform stream: whole permutations, cut at the epoch's end."""

from collections import Counter

import pytest
from label_lists import multi_labels, published

from ltml_mm.datasets import UniformSampler


@pytest.mark.parametrize('length', [1, 24, 25, 26, 80])
def test_no_image_repeats_within_a_pass(length):
    dataset = multi_labels(num_images=25)
    order = list(UniformSampler(dataset, length, seed=1))
    passes = [order[i : i + 25] for i in range(0, length, 25)]
    for part in passes[:-1]:
        assert sorted(part) == list(range(25))
    assert len(set(passes[-1])) == len(passes[-1])
    assert set(order) <= set(range(25))


def test_passes_are_shuffled_anew():
    sampler = UniformSampler(multi_labels(num_images=25), 100, seed=1)
    order = list(sampler)
    assert len({tuple(order[i : i + 25]) for i in range(0, 100, 25)}) == 4


def test_every_image_is_first_equally_often():
    sampler = UniformSampler(multi_labels(num_images=10), 1, seed=0)
    counts = Counter(int(sampler.order(e, 1)[0]) for e in range(5000))
    # 500 each; six standard deviations.
    assert set(counts) == set(range(10))
    assert max(abs(n - 500) for n in counts.values()) < 6 * 21.3


def test_images_without_a_label_are_drawn_too():
    dataset = multi_labels(num_images=25)
    dataset.lists[3] = []
    assert 3 in list(UniformSampler(dataset, 'dataset', seed=0))


def test_person_share_of_voc_lt():
    dataset = published('voc_lt')
    sampler = UniformSampler(dataset, 'dataset', seed=0)
    drawn = [14 in dataset.lists[i] for i in sampler]
    assert len(drawn) == 1142
    assert round(100 * sum(drawn) / len(drawn), 1) == 67.9
