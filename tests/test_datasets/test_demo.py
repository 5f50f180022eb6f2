"""The demo set: exact counts, the same bytes everywhere, no needless work."""

import hashlib
import pickle

import numpy as np
import pytest
from mmengine.registry import DATASETS

from ltml_mm.datasets import LongTailDemoDataset, demo
from ltml_mm.datasets.demo import CLASSES, demo_labels, demo_picture
from ltml_mm.datasets.demo_pictures import COLOURS, SHAPES, Draws

# The training counts of VOC-LT (Wu et al., ECCV 2020), in any order.
VOC_LT_COUNTS = [4, 5, 6, 7, 8, 11, 14, 17, 20, 29, 34, 48, 64, 82]
VOC_LT_COUNTS += [100, 154, 240, 249, 479, 775]

LABELS_SHA256 = (
    '975f820637011e6dea32339e30cc04fdad18dc795e00abbd90c8b2f5c941d8b8',
    '85fa097ea04922c847705ecd242e597749fdfede60e69dd0e6bf62c04157b449',
)
PICTURES_SHA256 = (
    'f1f72691af1d569fab5e1e75d183ff4e50a0cec4df7a07e59c0c4b9ab88105d9'
)


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


def sha256(data):
    return hashlib.sha256(data).hexdigest()


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
    pairs = [name.split('-') for name in CLASSES]
    for part, known in zip(
        zip(*pairs, strict=True), [COLOURS, SHAPES], strict=True
    ):
        assert set(part) == set(known)
        assert all(part.count(value) >= 2 for value in known)


def test_bytes_are_the_same_on_every_machine(train, test):
    for dataset, expected in zip((train, test), LABELS_SHA256, strict=True):
        text = repr([dataset.get_cat_ids(i) for i in range(len(dataset))])
        assert sha256(text.encode()) == expected
    images = [train.get_data_info(i)['img'] for i in (0, 1, 2, 500, 1141)]
    images += [test.get_data_info(i)['img'] for i in (0, 999)]
    assert sha256(b''.join(im.tobytes() for im in images)) == PICTURES_SHA256


def test_picture_depends_on_seed_split_and_number_alone(train):
    info = train.get_data_info(40)
    labels = info['gt_label']
    image = info['img'].copy()
    info['img'][:] = 0  # what a transform does in place
    assert (train.get_data_info(40)['img'] == image).all()
    np.random.seed(3)
    np.random.random(5)
    part = LongTailDemoDataset(indices=[7, 40])
    assert (part.get_data_info(1)['img'] == image).all()
    assert (demo_picture('train', 0, 40, labels) == image).all()
    for other in [('test', 0, 40), ('train', 1, 40), ('train', 0, 41)]:
        assert (demo_picture(*other, labels) != image).mean() > 0.5


def test_draws_are_uniform():
    draws = Draws(5)
    numbers = draws.uniform(20000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 10, (0, 1))[0]
    assert abs(counts - 2000).max() < 200
    values = draws.bytes(100, 200, 1)
    assert values.shape == (100, 200, 1)
    assert np.unique(values).tolist() == list(range(256))
    assert sorted(draws.order(50)) == list(range(50))


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

    monkeypatch.setattr(demo, 'draw_picture', refuse)
    dataset = LongTailDemoDataset(lazy_init=True)
    assert dataset.metainfo['class_counts'] == list(CLASSES.values())
    assert len(dataset) == 1142
    assert dataset.get_cat_ids(0)
    assert dataset.label_table.counts(20).tolist() == list(CLASSES.values())
    with pytest.raises(AssertionError, match='drew'):
        dataset.get_data_info(0)


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
    counts = matrix(dataset).sum(0).tolist()
    assert dataset.metainfo['class_counts'] == counts
    assert dataset.metainfo['num_train_images'] == 30
    item = pickle.loads(pickle.dumps(dataset))[4]
    sample = item['data_samples']
    image = dataset.get_data_info(4)['img'][:, ::-1]
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
