"""Pairs of draws: numbered, named, and each stream by itself."""

import numpy as np
import pytest
from label_lists import multi_labels, single_labels
from mmengine.registry import DATA_SAMPLERS

from ltml_mm.datasets.samplers.two_stream_sampler import stream_seed

UNIFORM = dict(type='UniformSampler')
REBALANCED = dict(type='ClassAwareMultiLabelSampler')
STREAMS = dict(uniform=UNIFORM, rebalanced=REBALANCED)
DATASET = multi_labels()


def build(streams=STREAMS, epoch_length=40, dataset=DATASET, seed=3):
    return DATA_SAMPLERS.build(
        dict(
            type='TwoStreamSampler',
            streams=streams,
            epoch_length=epoch_length,
            dataset=dataset,
            seed=seed,
        )
    )


def column(sampler, name, epoch=0):
    sampler.set_epoch(epoch)
    return [draw[name] for draw in sampler]


def test_draws_name_both_streams_and_their_number():
    sampler = build()
    sampler.set_epoch(5)
    draws = list(sampler)
    assert all(d.keys() == {'uniform', 'rebalanced', 'draw'} for d in draws)
    assert [d['draw'] for d in draws] == [(3, 5, p) for p in range(40)]
    assert all(type(d['uniform']) is int for d in draws)


def test_each_stream_is_what_its_sampler_draws():
    sampler = build(dict(uniform=UNIFORM, rebalanced=REBALANCED), 60)
    # Whole permutations of 60 images.
    assert sorted(column(sampler, 'uniform')) == list(range(60))
    singles = build(dataset=single_labels(2, 9, 4), epoch_length=30)
    classes = [
        singles.dataset.lists[i][0] for i in column(singles, 'rebalanced')
    ]
    assert [classes.count(k) for k in range(3)] == [10, 10, 10]
    assert all(len(set(classes[i : i + 3])) == 3 for i in range(0, 30, 3))


@pytest.mark.parametrize('config', [UNIFORM, REBALANCED])
def test_no_stream_repeats_an_epoch_of_the_other(config):
    sampler = build(dict(a=config, b=config))
    orders = [
        tuple(column(sampler, name, epoch))
        for name in 'ab'
        for epoch in range(8)
    ]
    assert len(set(orders)) == 16


def test_a_stream_does_not_depend_on_the_others():
    both = column(build(), 'rebalanced')
    alone = column(build(dict(rebalanced=REBALANCED)), 'rebalanced')
    turned = column(
        build(dict(rebalanced=REBALANCED, u=UNIFORM)), 'rebalanced'
    )
    assert both == alone == turned


def test_epoch_length_of_a_stream():
    streams = dict(
        uniform=dict(type='UniformSampler', num_samples=11),
        rebalanced=dict(type='ClassAwareMultiLabelSampler', num_samples=29),
    )
    for name, length in (('uniform', 11), ('rebalanced', 29)):
        sampler = build(streams, name)
        assert len(sampler) == len(list(sampler)) == length


def test_a_given_epoch_needs_no_length_of_the_streams():
    few = single_labels(1, 1)
    sampler = build(epoch_length=8, dataset=few)
    assert len(list(sampler)) == len(sampler) == 8
    with pytest.raises(ValueError, match=r'sampler\.streams\.\*\.num_samples'):
        build(epoch_length='rebalanced', dataset=few)


def test_streams_of_one_seed_are_apart():
    names = ('uniform', 'rebalanced', 'a', 'b')
    seeds = {stream_seed(seed, n) for seed in range(500) for n in names}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**32 for seed in seeds)
    # Not near one another: no seed is another's plus an epoch.
    assert np.diff(sorted(seeds)).min() > 8


@pytest.mark.parametrize(
    ('streams', 'length', 'message'),
    [
        ({}, 5, 'at least one stream'),
        (dict(draw=UNIFORM), 5, "none of them 'draw'"),
        (STREAMS, 'balanced', "names no stream; .*'uniform', 'rebalanced'"),
        (STREAMS, 0, 'positive int, got 0'),
        (STREAMS, -3, 'positive int, got -3'),
        (STREAMS, 2.0, 'positive int, got 2.0'),
        (STREAMS, True, 'positive int, got True'),
        (STREAMS, None, 'positive int, got None'),
        (dict(a=dict(UNIFORM, seed=1)), 5, "'a' sets its own seed"),
        (dict(a=dict(type='DefaultSampler')), 5, "'a' must be .*Default"),
    ],
)
def test_bad_arguments_are_named(streams, length, message):
    with pytest.raises(ValueError, match=message):
        build(streams, length)
