"""The demo set: exact counts, the same pictures, no needless work."""

import hashlib
import pickle

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from ltml_mm.datasets import LongTailDemoDataset, demo
from ltml_mm.datasets.demo import (
    _OPACITY,
    CLASSES,
    COLOURS,
    SHAPES,
    SIDE,
    _draw,
    demo_labels,
    demo_picture,
)

# The training counts of VOC-LT (Wu et al., ECCV 2020), in any order.
VOC_LT_COUNTS = [4, 5, 6, 7, 8, 11, 14, 17, 20, 29, 34, 48, 64, 82]
VOC_LT_COUNTS += [100, 154, 240, 249, 479, 775]

LABELS_SHA256 = (
    '975f820637011e6dea32339e30cc04fdad18dc795e00abbd90c8b2f5c941d8b8',
    '85fa097ea04922c847705ecd242e597749fdfede60e69dd0e6bf62c04157b449',
)
# The mean of every quarter of the first training picture, BGR.
QUARTERS = [
    [[145.3, 148.7, 135.0], [129.5, 133.9, 121.8]],
    [[151.4, 124.8, 87.6], [131.6, 123.2, 92.5]],
]


@pytest.fixture(scope='module')
def train():
    return LongTailDemoDataset()


@pytest.fixture(scope='module')
def test():
    return LongTailDemoDataset('test')


def matrix(dataset):
    labels = np.zeros((len(dataset), 20), bool)
    for index in range(len(dataset)):
        labels[index, dataset.get_cat_ids(index)] = True
    return labels


@pytest.mark.parametrize('seed', [0, 1, 7, 2**40])
def test_counts_are_exact_for_every_seed(seed):
    labels = demo_labels('train', seed)
    assert len(labels) == 1142
    assert all(1 <= len(row) <= 5 for row in labels)
    assert all(row == sorted(set(row)) for row in labels)
    counts = np.bincount(np.concatenate(labels), minlength=20)
    assert counts.tolist() == list(CLASSES.values())
    assert sorted(counts.tolist()) == VOC_LT_COUNTS
    labels = demo_labels('test', seed)
    assert len(labels) == 1000
    assert np.bincount(np.concatenate(labels)).min() > 60


def test_rare_classes_stand_beside_frequent_ones(train, test):
    for dataset in (train, test):
        labels = matrix(dataset)
        head = labels[:, [4, 6, 8, 10, 14, 15]]
        assert head.any(1).all()
        # One head class goes with a rare class more often than by chance.
        together = labels.T.astype(int) @ head / labels.sum(0)[:, None]
        excess = (together - head.mean(0)).max(1)
        rare = np.array(list(CLASSES.values())) < 100
        assert excess[rare].min() > 0.1
        assert excess[rare].mean() > 0.25


def test_metainfo_holds_the_training_counts(train, test):
    for dataset in (train, test):
        meta = dataset.metainfo
        assert meta['classes'] == tuple(CLASSES)
        assert meta['class_counts'] == list(CLASSES.values())
        assert meta['num_train_images'] == 1142
    assert (len(train), len(test)) == (1142, 1000)


def test_classes_need_colour_and_shape():
    colours, shapes = zip(*(name.split('-') for name in CLASSES), strict=True)
    assert set(colours) == set(COLOURS)
    assert set(shapes) == set(SIZES) == set(SHAPES) - {'stroke'}
    for part in (colours, shapes):
        assert min(map(part.count, part)) >= 2


def test_labels_are_the_same_everywhere(train, test):
    for dataset, expected in zip((train, test), LABELS_SHA256, strict=True):
        text = repr([dataset.get_cat_ids(i) for i in range(len(dataset))])
        assert hashlib.sha256(text.encode()).hexdigest() == expected


def test_pictures_are_the_same_up_to_rounding(train):
    image = train[0]['img'].astype(float)
    quarters = image.reshape(2, 32, 2, 32, 3).mean((1, 3))
    np.testing.assert_allclose(quarters.round(1), QUARTERS, atol=0.5)


# The area of a shape and its centre, for a radius of 1.
SIZES = {
    'ring': (np.pi * (1 - 0.58**2), 0, 0), 'disc': (np.pi * 0.95**2, 0, 0),
    'square': (1.64**2, 0, 0), 'triangle': (1.9 * 1.9 / 2, 0, 1 / 6),
    'cross': (2 * 0.6 * 1.9 - 0.6**2, 0, 0), 'heart': (2.203, 0, -0.18),
    'moon': (1.599, -0.367, 0), 'bars': (3 * 0.36 * 1.8, 0, 0),
    'arrow': (1 + 0.64 * 0.95, 0, -0.028),
    'hourglass': (0.9 * (1.9 + 0.2), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize('shape', SIZES)
def test_every_shape_has_its_size_and_place(shape):
    area, u, v = SIZES[shape]
    canvas = Image.new('RGB', (SIDE, SIDE))
    pose = 30.5, 33.0, 20.0, np.tan(0.2)  # turned by 0.4 radians
    _draw(canvas, shape, np.array([255] * 3), pose)
    drawn = np.asarray(canvas)[..., 0] / _OPACITY
    assert drawn.max() == 1
    assert ((drawn > 0.1) & (drawn < 0.9)).any()  # smooth edges
    assert drawn.sum() == pytest.approx(20**2 * area, rel=0.06)
    places = np.arange(SIDE) + 0.5
    centre = [drawn.sum(axis) @ places / drawn.sum() for axis in (0, 1)]
    cos, sin = 20 * np.cos(0.4), 20 * np.sin(0.4)
    expected = 30.5 + u * cos - v * sin, 33 + u * sin + v * cos
    np.testing.assert_allclose(centre, expected, rtol=0, atol=0.3)


def test_picture_depends_on_seed_split_and_number_alone(train):
    info = train[40]
    labels = info['gt_label']
    image = info['img'].copy()
    info['img'][:] = 0  # what a transform does in place
    assert (train[40]['img'] == image).all()
    np.random.seed(3)
    np.random.random(5)
    assert (LongTailDemoDataset(indices=[7, 40])[1]['img'] == image).all()
    assert (demo_picture('train', 0, 40, labels) == image).all()
    for other in [('test', 0, 40), ('train', 1, 40), ('train', 0, 41)]:
        assert (demo_picture(*other, labels) != image).mean() > 0.5


@pytest.mark.parametrize('name', list(CLASSES))
def test_every_class_shows_its_colour(name):
    """The glyph's own pixels have the hue of the class's colour."""
    label = list(CLASSES).index(name)
    colour = np.array(COLOURS[name.split('-')[0]], float)
    blank = [demo_picture('train', 3, n, []) for n in range(3)]
    found = 0
    for number in range(3):
        image = demo_picture('train', 3, number, [label]).astype(float)
        assert not (image == blank[number]).all()
        centred = image - image.mean(-1, keepdims=True)
        target = colour - colour.mean()
        norm = np.sqrt((centred**2).sum(-1) * (target**2).sum()) + 1e-9
        alike = (centred @ target) / norm > 0.95
        found += alike.sum() > 25
    assert found == 3


def test_labels_are_read_without_drawing(monkeypatch):
    def refuse(*_):
        raise AssertionError('drew a picture')

    monkeypatch.setattr(demo, 'demo_picture', refuse)
    dataset = LongTailDemoDataset(lazy_init=True)
    assert dataset.metainfo['class_counts'] == list(CLASSES.values())
    assert len(dataset) == 1142
    assert dataset.get_data_info(0)['gt_label'] == dataset.get_cat_ids(0)
    assert dataset.label_table.counts(20).tolist() == list(CLASSES.values())
    with pytest.raises(AssertionError, match='drew'):
        dataset[0]


def test_stock_pipeline_and_pickling():
    dataset = DATASETS.build(
        {
            'type': 'LongTailDemoDataset',
            'indices': 30,
            'pipeline': [
                {'type': 'mmpretrain.RandomFlip', 'prob': 1.0},
                {'type': 'mmpretrain.PackInputs'},
            ],
        }
    )
    assert dataset.metainfo['class_counts'] == matrix(dataset).sum(0).tolist()
    assert dataset.metainfo['num_train_images'] == 30
    item = pickle.loads(pickle.dumps(dataset))[4]
    sample = item['data_samples']
    image = LongTailDemoDataset()[4]['img'][:, ::-1]
    np.testing.assert_array_equal(
        item['inputs'].permute(1, 2, 0).numpy(), image
    )
    assert sample.gt_label.tolist() == dataset.get_cat_ids(4)
    assert sample.img_path == 'demo/train/00004'
    assert sample.ori_shape == (64, 64)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'split': 'val'}, "split must be 'train' or 'test', got 'val'"),
        ({'seed': -1}, 'seed must be an integer from 0, got -1'),
        ({'seed': 0.5}, 'seed must be an integer'),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LongTailDemoDataset(**options)
