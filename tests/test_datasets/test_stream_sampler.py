"""What all samplers of the package promise: pure, sharded, resumable."""

import random
from collections import Counter

import label_lists
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler

from ltml_mm.datasets import (
    ClassAwareMultiLabelSampler,
    TwoStreamSampler,
    UniformSampler,
)

DATASET = label_lists.multi_labels()


def uniform(length=53, seed=7, dataset=DATASET):
    return UniformSampler(dataset, length, seed=seed)


def class_aware(length=53, seed=7, dataset=DATASET):
    return ClassAwareMultiLabelSampler(dataset, length, seed=seed)


def two_stream(length=53, seed=7, dataset=DATASET):
    return TwoStreamSampler(dataset, label_lists.STREAMS, length, seed=seed)


KINDS = pytest.mark.parametrize('make', [uniform, class_aware, two_stream])


@pytest.fixture
def rank(monkeypatch):
    def rank(rank, world_size):
        monkeypatch.setattr(
            'ltml_mm.datasets.samplers.stream.get_dist_info',
            lambda: (rank, world_size),
        )

    return rank


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


# -- a pure function of seed and epoch ---------------------------------------


@KINDS
def test_the_order_is_a_function_of_seed_and_epoch(make):
    first = make()
    orders = [epoch(first, e) for e in (0, 1, 2)]
    other = make()
    list(other)
    assert epoch(other, 2) == orders[2]
    assert epoch(other, 0) == orders[0]
    assert epoch(other, 0) == orders[0]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(make(seed=8)) != orders[0]


@KINDS
def test_neighbouring_seeds_do_not_share_epochs(make):
    # With seed + epoch as the seed they would, shifted by one.
    def orders(seed):
        sampler = make(seed=seed)
        return [str(epoch(sampler, e)) for e in range(6)]

    every = [order for seed in range(6) for order in orders(seed)]
    assert len(set(every)) == 36


@KINDS
def test_global_generators_are_neither_read_nor_moved(make):
    before = label_lists.global_states()
    order = list(make())
    assert label_lists.global_states() == before
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert list(make()) == order


@KINDS
def test_without_a_seed_the_ranks_agree_on_one(make, monkeypatch):
    monkeypatch.setattr(
        'ltml_mm.datasets.samplers.stream.sync_random_seed', lambda: 7
    )
    assert list(make(seed=None)) == list(make(seed=7))


@KINDS
@pytest.mark.parametrize('seed', [-1, 0.5, '0'])
def test_bad_seeds_are_named(make, seed):
    with pytest.raises(ValueError, match='seed must be an int from 0'):
        make(seed=seed)


# -- several processes -------------------------------------------------------


@KINDS
@pytest.mark.parametrize('world_size', [2, 3, 8])
def test_ranks_interleave_to_the_order_of_one_process(make, rank, world_size):
    alone = make()
    alone.set_epoch(3)
    whole = list(alone)
    shards = []
    for number in range(world_size):
        rank(number, world_size)
        sampler = make()
        sampler.set_epoch(3)
        shards.append(list(sampler))
        assert len(shards[-1]) == len(sampler)
    assert len({len(shard) for shard in shards}) == 1
    # Round-robin: position p went to rank p % world_size.
    joined = [draw for row in zip(*shards, strict=True) for draw in row]
    assert joined[: len(whole)] == whole
    # The round-up repeats the beginning, less than one draw a rank.
    extra = joined[len(whole) :]
    assert extra == whole[: len(extra)]
    assert len(extra) < world_size


@KINDS
def test_more_ranks_than_draws(make, rank):
    whole = list(make(length=2))
    shards = []
    for number in range(5):
        rank(number, 5)
        shards.append(list(make(length=2)))
    assert shards == [[whole[i % 2]] for i in range(5)]


# -- skip --------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize('skipped', [0, 1, 17, 52, 53, 54, 130, 159])
@pytest.mark.parametrize('world_size', [1, 2])
def test_skip_goes_on_at_the_very_next_index(make, rank, skipped, world_size):
    rank(world_size - 1, world_size)
    reference = make()
    stream = [draw for e in range(8) for draw in epoch(reference, e)]
    sampler = make()
    length = len(sampler)
    sampler.skip(skipped)
    rest = list(sampler)
    # A loop counts the passes since the resume.
    for later in (1, 2):
        assert len(sampler) == length
        rest += epoch(sampler, later)
    assert rest == stream[skipped : skipped + len(rest)]
    assert len(rest) > 2 * length - 1


@KINDS
def test_skip_counts_from_the_start(make):
    sampler, expected = make(), list(make())
    sampler.skip(40)
    sampler.skip(5)
    # OneDL's loops set the epoch of the first pass before they skip, and
    # nothing must be lost where one does it after.
    sampler.set_epoch(0)
    assert list(sampler) == expected[5:]
    assert list(sampler) == expected


@KINDS
def test_skip_refuses_negative_numbers(make):
    with pytest.raises(ValueError, match='negative, got -1'):
        make().skip(-1)


@KINDS
@pytest.mark.parametrize('drop_last', [True, False])
def test_pass_length_makes_skipped_batches_exact(make, drop_last):
    def batches(sampler):
        return BatchSampler(sampler, 10, drop_last)

    reference = make()
    whole = []
    for number in range(4):
        reference.set_epoch(number)
        whole += list(batches(reference))
    for done in (1, 5, 6, 11, 13):
        sampler = make()
        sampler.pass_length = len(batches(sampler)) * 10
        sampler.skip(done * 10)
        rest = list(batches(sampler))
        sampler.set_epoch(1)
        rest += list(batches(sampler))
        assert rest == whole[done : done + len(rest)]


# -- lengths -----------------------------------------------------------------


@KINDS
@pytest.mark.parametrize('length', [1, 6, 60, 61, 500])
def test_epochs_have_the_length_asked_for(make, length):
    sampler = make(length=length)
    assert len(sampler) == len(list(sampler)) == length
    assert len(epoch(sampler, 3)) == length


@pytest.mark.parametrize('kind', [UniformSampler, ClassAwareMultiLabelSampler])
class TestNumSamples:
    dataset = label_lists.LabelLists([[0], [0], [0], [2], [0, 2], [], [0]])

    def test_class_max_counts_the_classes_that_have_an_image(self, kind):
        # Class 0 has 5 images, two classes have any.
        assert len(kind(self.dataset, seed=0)) == 5 * 2 // 4
        assert len(kind(self.dataset, reduce=1, seed=0)) == 10

    def test_dataset(self, kind):
        assert len(kind(self.dataset, 'dataset', seed=0)) == 7

    @pytest.mark.parametrize('value', ['max', None, 1.5, True, [3]])
    def test_anything_else_is_named(self, kind, value):
        with pytest.raises(ValueError, match='num_samples must be an int'):
            kind(self.dataset, value)

    @pytest.mark.parametrize('value', [0, -4])
    def test_an_empty_epoch_is_refused(self, kind, value):
        with pytest.raises(ValueError, match=f'num_samples={value} gives'):
            kind(self.dataset, value)

    @pytest.mark.parametrize('value', [0, -1, 1.5, '4'])
    def test_bad_divisors_are_named(self, kind, value):
        with pytest.raises(ValueError, match='reduce must be a positive int'):
            kind(self.dataset, reduce=value)

    def test_a_divisor_that_leaves_nothing_is_refused(self, kind):
        with pytest.raises(ValueError, match='an epoch of 0 draws'):
            kind(self.dataset, reduce=11)

    def test_an_empty_dataset_is_refused(self, kind):
        with pytest.raises(ValueError, match='no image to draw'):
            kind(label_lists.LabelLists([]), 5)

    def test_a_dataset_without_labels_is_refused(self, kind):
        with pytest.raises(TypeError, match='no get_cat_ids'):
            kind([1, 2], 5)


# -- the uniform stream: whole permutations, cut at the end -------------------


@pytest.mark.parametrize('length', [1, 24, 25, 26, 80])
def test_no_image_repeats_within_a_pass(length):
    dataset = label_lists.multi_labels(num_images=25)
    order = list(UniformSampler(dataset, length, seed=1))
    passes = [order[i : i + 25] for i in range(0, length, 25)]
    for part in passes[:-1]:
        assert sorted(part) == list(range(25))
    assert len(set(passes[-1])) == len(passes[-1])
    assert set(order) <= set(range(25))


def test_passes_are_shuffled_anew():
    sampler = UniformSampler(
        label_lists.multi_labels(num_images=25), 100, seed=1
    )
    order = list(sampler)
    assert len({tuple(order[i : i + 25]) for i in range(0, 100, 25)}) == 4


def test_every_image_is_first_equally_often():
    sampler = UniformSampler(
        label_lists.multi_labels(num_images=10), 1, seed=0
    )
    counts = Counter(int(sampler.order(e, 1)[0]) for e in range(5000))
    # 500 each; six standard deviations.
    assert set(counts) == set(range(10))
    assert max(abs(n - 500) for n in counts.values()) < 6 * 21.3


def test_person_share_of_voc_lt():
    dataset = label_lists.published('voc_lt')
    sampler = UniformSampler(dataset, 'dataset', seed=0)
    drawn = [14 in dataset.lists[i] for i in sampler]
    assert len(drawn) == 1142
    assert round(100 * sum(drawn) / len(drawn), 1) == 67.9
