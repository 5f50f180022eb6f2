"""Each stream is prepared by itself; flat batches as the parent does."""

import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample

NAMES = ('uniform', 'rebalanced')
NORM = dict(mean=[10, 20, 30], std=[2, 4, 5], to_rgb=True)


def build(**kwargs):
    return MODELS.build(dict(type='TwoStreamDataPreprocessor', **kwargs))


def mixing(kind='Mixup'):
    augments = dict(type=kind, alpha=1.0)
    return build(num_classes=2, batch_augments=dict(augments=augments))


def sample(value, label, size=4):
    image = torch.full((3, size, size), value, dtype=torch.uint8)
    return {'inputs': image, 'data_samples': DataSample().set_gt_label(label)}


def pair(values, labels, size=4):
    made = [
        sample(v, label, size) for v, label in zip(values, labels, strict=True)
    ]
    return {
        key: {n: s[key] for n, s in zip(NAMES, made, strict=True)}
        for key in ('inputs', 'data_samples')
    }


@pytest.fixture
def batch():
    """Four pairs: values 0 to 3 and class 0, values 200 up and class 1."""
    return [pair((i, 200 + i), ([0], [1])) for i in range(4)]


def images(streams, name):
    return torch.stack([s['inputs'][name] for s in streams])


def test_each_stream_equals_a_flat_batch(batch):
    prepared = build(**NORM)(default_collate(batch), training=True)
    assert tuple(prepared['inputs']) == NAMES
    for name in NAMES:
        flat = {
            'inputs': images(batch, name),
            'data_samples': [s['data_samples'][name] for s in batch],
        }
        expected = ClsDataPreprocessor(**NORM)(flat)['inputs']
        assert prepared['inputs'][name].dtype == torch.float32
        assert torch.equal(prepared['inputs'][name], expected)
        labels = [s.gt_label for s in prepared['data_samples'][name]]
        assert labels == [NAMES.index(name)] * 4
    # No step waits for labels: they stay where they are.
    far = build(**NORM).to('meta')(default_collate(batch))['data_samples']
    assert all(s.gt_label.device.type == 'cpu' for s in far['uniform'])


def test_normalisation_against_the_formula(batch):
    prepared = build(**NORM)(default_collate(batch))
    image = images(batch, 'rebalanced').flip(1).float()
    mean, std = (torch.tensor(NORM[k])[:, None, None] for k in ('mean', 'std'))
    torch.testing.assert_close(
        prepared['inputs']['rebalanced'], (image - mean) / std
    )


def test_flat_batches_are_the_parents(batch):
    flat = default_collate([sample(i, [0]) for i in range(3)])
    prepared = build(**NORM)(flat)
    assert torch.equal(
        prepared['inputs'], ClsDataPreprocessor(**NORM)(flat)['inputs']
    )
    assert len(prepared['data_samples']) == 3


def test_images_of_different_sizes_are_padded_within_their_stream():
    streams = [pair((1, 2), ([0], [1]), size=s) for s in (4, 6)]
    sizes = {
        'inputs': {
            'uniform': [streams[0]['inputs']['uniform']] * 2,
            'rebalanced': [s['inputs']['rebalanced'] for s in streams],
        },
        'data_samples': pseudo_collate(streams)['data_samples'],
    }
    prepared = build(pad_size_divisor=1)(sizes)['inputs']
    assert prepared['uniform'].shape == (2, 3, 4, 4)
    assert prepared['rebalanced'].shape == (2, 3, 6, 6)


@pytest.mark.parametrize('kind', ['Mixup', 'CutMix'])
def test_batch_augmentations_never_mix_streams(batch, kind):
    torch.manual_seed(0)
    preprocessor = mixing(kind)
    mixed = 0
    for _ in range(30):
        prepared = preprocessor(default_collate(batch), training=True)
        for number, name in enumerate(NAMES):
            values = prepared['inputs'][name]
            low, high = (0, 3) if name == 'uniform' else (200, 203)
            assert low - 0.01 < values.min()
            assert values.max() < high + 0.01
            mixed += int((values != images(batch, name)).any())
            for data_sample in prepared['data_samples'][name]:
                # All images of a stream have the same class here.
                assert data_sample.gt_score[number] == pytest.approx(1)
                assert data_sample.gt_score[1 - number] == 0
    # The test would prove nothing if no image were mixed.
    assert mixed > 20


def test_batch_augmentations_draw_for_each_stream(batch):
    torch.manual_seed(0)
    preprocessor = mixing()
    differ = False
    for _ in range(10):
        inputs = preprocessor(default_collate(batch), True)['inputs']
        shifted = inputs['rebalanced'] - 200
        differ |= not torch.allclose(inputs['uniform'], shifted, atol=1e-3)
    assert differ


def test_batch_augmentations_wait_for_training(batch):
    preprocessor = mixing()
    inputs = preprocessor(default_collate(batch), training=False)['inputs']
    for name in NAMES:
        assert torch.equal(inputs[name], images(batch, name).float())


def test_images_without_a_label_are_mixed_too():
    streams = [pair((i, 200 + i), ([], [1])) for i in range(3)]
    preprocessor = mixing()
    prepared = preprocessor(default_collate(streams), training=True)
    scores = [s.gt_score.tolist() for s in prepared['data_samples']['uniform']]
    assert scores == [[0, 0]] * 3
