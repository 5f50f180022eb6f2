"""The wrapper that makes a run the same for any number of workers."""

import random

import cv2
import numpy as np
import pytest
import torch
from label_lists import STREAMS, global_states
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from ltml_mm.datasets import TwoStreamDataset, TwoStreamSampler
from ltml_mm.datasets.two_stream import kept_random_states, seed_generators

# Transforms that draw from numpy, from random and from torch.
RANDOM = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomRatioCrop', min_ratio=0.5),
    dict(type='Resize', scale=(16, 16), keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomErasing', erase_prob=0.5, mode='rand'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/RandomAffine', degrees=20),
    dict(type='torchvision/ColorJitter', brightness=0.5),
    dict(type='PILToNumpy', to_bgr=True), dict(type='PackInputs'),
]  # fmt: skip
PLAIN = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve pictures of noise with their annotations."""
    root = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    entries = []
    for number in range(12):
        picture = rng.integers(0, 256, (24, 20, 3), np.uint8)
        cv2.imwrite(str(root / f'{number}.png'), picture)
        labels = '[]' if number == 5 else f'[{number % 3}]'
        entries.append(f'{{"img_path": "{number}.png", "gt_label": {labels}}}')
    (root / 'train.json').write_text(
        '{"metainfo": {"classes": ["a", "b", "c"]}, "data_list": ['
        f'{",".join(entries)}]}}'
    )
    return root


def stored(folder, pipeline, **options):
    own = dict(ann_file='train.json', data_root=str(folder), **options)
    return dict(type='LongTailMultiLabelDataset', pipeline=pipeline, **own)


def build(folder, pipeline=RANDOM, **kwargs):
    own = dict(dataset=stored(folder, pipeline), **kwargs)
    return DATASETS.build(dict(type='TwoStreamDataset', **own))


def batches(dataset, workers, epochs=2, streams=STREAMS, rank_seed=0):
    sampler = TwoStreamSampler(dataset, streams, epoch_length=20, seed=4)
    loader = DataLoader(
        dataset,
        batch_size=6,
        sampler=sampler,
        num_workers=workers,
        collate_fn=default_collate,
        worker_init_fn=lambda n: np.random.seed(n + rank_seed),
    )
    result = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        result += list(loader)
    return result


def pixels(result):
    return [
        {name: images.numpy() for name, images in batch['inputs'].items()}
        for batch in result
    ]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(pixels(first), pixels(second), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# -- the same run for any number of workers ----------------------------------


@pytest.fixture(scope='module')
def in_process(folder):
    return batches(build(folder), workers=0)


@pytest.mark.parametrize('workers', [1, 4])
def test_workers_do_not_change_a_run(folder, in_process, workers):
    assert_same(batches(build(folder), workers, rank_seed=workers), in_process)


def test_resume_continues_with_the_same_pictures(folder):
    dataset = build(folder)
    sampler = TwoStreamSampler(dataset, STREAMS, 20, seed=4)
    whole = [dataset[draw] for draw in sampler]
    sampler.skip(13)
    rest = [dataset[draw] for draw in sampler]
    for one, other in zip(whole[13:], rest, strict=True):
        for name in STREAMS:
            assert torch.equal(one['inputs'][name], other['inputs'][name])


def test_states_are_given_back_after_an_error():
    before = global_states()
    with pytest.raises(ZeroDivisionError), kept_random_states():
        1 / len(seed_generators((0, 0, 0), 'uniform') or ())
    assert global_states() == before


def drawn():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_every_generator_is_seeded_by_every_part_of_the_number():
    keys = [
        *(((0, 0, 0), 'uniform'), ((0, 0, 0), 'rebalanced')),
        *(((0, 0, 1), 'uniform'), ((0, 1, 0), 'uniform')),
        ((1, 0, 0), 'uniform'),
    ]
    values = []
    for number, stream in keys:
        with kept_random_states():
            seed_generators(number, stream)
            values.append(drawn())
            seed_generators(number, stream)
            assert drawn() == values[-1]
    for generator in zip(*values, strict=True):
        assert len(set(generator)) == len(keys)


def test_a_stream_is_augmented_alike_with_and_without_the_other(folder):
    # So that a baseline differs from the method in nothing but the method.
    dataset = build(folder)
    pair = dataset[{'uniform': 3, 'rebalanced': 4, 'draw': (0, 0, 7)}]
    single = dataset[{'rebalanced': 4, 'draw': (0, 0, 7)}]
    assert torch.equal(pair['inputs']['rebalanced'], single['inputs'])


# -- what a draw becomes -----------------------------------------------------


def test_a_pair_is_named_by_stream(folder):
    dataset = build(folder, PLAIN)
    sample = dataset[{'uniform': 5, 'rebalanced': 1, 'draw': (0, 0, 0)}]
    assert sample.keys() == {'inputs', 'data_samples'}
    labels = {
        k: s.gt_label.tolist() for k, s in sample['data_samples'].items()
    }
    assert labels == {'uniform': [], 'rebalanced': [1]}
    paths = [s.img_path for s in sample['data_samples'].values()]
    assert [p.rsplit('/')[-1] for p in paths] == ['5.png', '1.png']
    assert torch.equal(sample['inputs']['uniform'], dataset[5]['inputs'])


def test_a_batch_of_pairs_is_batched_by_stream(in_process):
    batch = in_process[0]
    for name in STREAMS:
        assert batch['inputs'][name].shape == (6, 3, 16, 16)
        samples = batch['data_samples'][name]
        assert len(samples) == 6
        assert all(isinstance(sample, DataSample) for sample in samples)


def test_one_stream_gives_a_flat_sample(folder):
    dataset = build(folder, PLAIN)
    sample = dataset[{'uniform': 2, 'draw': (0, 0, 0)}]
    assert torch.equal(sample['inputs'], dataset[2]['inputs'])
    assert sample['data_samples'].gt_label.tolist() == [2]
    flat = batches(dataset, 0, 1, dict(uniform=STREAMS['uniform']))
    assert flat[0]['inputs'].shape == (6, 3, 24, 20)


# -- what it forwards --------------------------------------------------------


def test_it_stands_in_for_the_dataset(folder):
    dataset = build(folder, PLAIN)
    inner = dataset.dataset
    assert len(dataset) == 12
    assert dataset.metainfo == inner.metainfo
    assert dataset.metainfo['class_counts'] == [4, 4, 3]
    assert dataset.CLASSES == ['a', 'b', 'c']
    assert dataset.get_cat_ids(4) == [1]
    assert dataset.get_data_info(4) == inner.get_data_info(4)
    assert dataset.label_table is inner.label_table
    assert 'LongTailMultiLabelDataset' in repr(dataset)


def test_lazy_init_waits(folder):
    own = stored(folder, PLAIN, lazy_init=True)
    dataset = TwoStreamDataset(own, lazy_init=True)
    assert dataset.label_table is None
    dataset.full_init()
    assert dataset.label_table.num_images == 12
    assert TwoStreamDataset(own).label_table.num_images == 12


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r'get_cat_ids\(index\), got list'):
        TwoStreamDataset([1, 2])
