import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from inference_case import CLASSES, GROUPS, META, PLAIN, build, pixels, save
from inference_case import save_case as make
from mmengine.config import Config
from PIL import Image

from ltml_mm.apis import MultiLabelInferencer
from ltml_mm.apis.checkpoint import CheckpointError, load_weights
from ltml_mm.apis.inferencer import find_images
from ltml_mm.apis.model import build_model
from ltml_mm.datasets.images import UnreadableImageError, printable
from ltml_mm.inspection.pictures import (
    MAX_LABELS,
    MAX_SIDE,
    MIN_SIDE,
    draw_prediction,
    encode_picture,
)


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    config, checkpoint, model = make(tmp_path_factory.mktemp('model'))
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu')
    return inferencer, model, config, checkpoint


@pytest.fixture
def inferencer(case):
    return case[0]


def by_hand(model, rgb):
    """The test pipeline and the normalisation, without MMEngine."""
    resized = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_LINEAR)
    normal = (resized - np.float32([120, 110, 100])) / np.float32([58, 57, 56])
    batch = torch.from_numpy(normal).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        return model(batch, mode='tensor')[0].sigmoid().numpy()


def scores(record):
    return np.array(list(record['scores'].values()))


def test_scores_are_those_of_the_model(case, tmp_path):
    inferencer, model, *_ = case
    images = [save(tmp_path / f'{i}.png', i) for i in range(3)]
    records = inferencer([str(path) for path in images])
    for seed, record in enumerate(records):
        expected = by_hand(model, pixels(seed))
        np.testing.assert_allclose(scores(record), expected, atol=1e-5)
        assert list(record['scores']) == CLASSES
        assert record['path'] == str(images[seed])
    assert np.ptp(scores(records[0])) > 0.2  # else the above proves little


def test_pixels_predict_like_the_file(inferencer, tmp_path):
    path = save(tmp_path / 'a.png')
    array = np.ascontiguousarray(pixels(0)[..., ::-1])
    file, memory = inferencer([path, array])
    np.testing.assert_array_equal(scores(file), scores(memory))
    assert memory['path'] is None


def test_labels_by_threshold_and_topk(inferencer, tmp_path):
    path = save(tmp_path / 'a.png', 1)
    for threshold in (None, 0.0, 0.3, 0.9, 1.0):
        record = inferencer(path, threshold=threshold)[0]
        least = 0.5 if threshold is None else threshold
        expected = {n for n, s in record['scores'].items() if s >= least}
        assert {label['name'] for label in record['labels']} == expected
    ranked = sorted(record['scores'], key=lambda n: -record['scores'][n])
    for topk in (1, 3, 5):
        labels = inferencer(path, topk=topk)[0]['labels']
        assert [label['name'] for label in labels] == ranked[:topk]
    for label in labels:
        index = CLASSES.index(label['name'])
        assert label['group'] == GROUPS[index]
        assert label['train_images'] == META['class_counts'][index]
        assert label['score'] == record['scores'][label['name']]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(threshold=1.5), r'threshold must be in \[0, 1\], got 1.5'),
        (dict(threshold=float('nan')), 'threshold must be in'),
        (dict(topk=0), 'topk must be from 1 to 5'),
        (dict(topk=6), 'topk must be from 1 to 5.*got 6'),
        (dict(topk=1, threshold=0.5), 'not both'),
        (dict(batch_size=0), 'batch size must be at least 1, got 0'),
    ],
)
def test_bad_arguments(inferencer, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        inferencer(save(tmp_path / 'a.png'), **arguments)


@pytest.mark.parametrize('image', [None, b'a.png', torch.zeros(4, 4, 3)])
def test_what_is_no_image_is_refused(inferencer, image):
    words = f'a path, a Pillow image or BGR pixels.* {type(image).__name__}'
    for given in (image, [image]):
        with pytest.raises(ValueError, match=words):
            inferencer(given)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ('', 'path is empty'),
        (['{}'], 'is a folder$'),
        ('https://host/a.png', 'a URL; download'),
    ],
)
def test_other_places_are_told(inferencer, tmp_path, given, words):
    if isinstance(given, list):
        given = [str(tmp_path)]
    with pytest.raises(ValueError, match=words):
        inferencer(given)


def test_an_iterator_of_images(inferencer, tmp_path):
    path = save(tmp_path / 'a.png')
    (expected,) = inferencer(path)
    found = inferencer(image for image in (path, Path(path)))
    assert [r['scores'] for r in found] == [expected['scores']] * 2


def test_no_image_has_no_result(inferencer):
    assert inferencer([]) == []


def test_pixels_of_another_kind_are_refused(inferencer):
    for shape, dtype in (((4, 4), 'u1'), ((4, 4, 3), 'f8'), ((0, 9, 3), 'u1')):
        with pytest.raises(ValueError, match=r'BGR pixels.* shape \(\d, '):
            inferencer(np.zeros(shape, dtype))


def test_stock_classifier(tmp_path):
    config, checkpoint, model = make(tmp_path, PLAIN)
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu')
    record = inferencer(save(tmp_path / 'a.png'))[0]
    expected = by_hand(model, pixels(0))
    np.testing.assert_allclose(scores(record), expected, atol=1e-5)


def test_names_from_the_config(tmp_path):
    config, checkpoint, _ = make(tmp_path, dataset_meta=None)
    text = config.read_text().replace('LongTailMultiLabel', 'MultiLabel')
    config.write_text(text.replace('num_classes=None', 'num_classes=5'))
    with pytest.raises(ValueError, match=r'metainfo=dict\(classes='):
        MultiLabelInferencer(config, checkpoint, 'cpu')
    key = 'test_dataloader.dataset.metainfo'
    options = {key: dict(classes=CLASSES)}
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu', options)
    assert [info['name'] for info in inferencer.class_info] == CLASSES
    assert {info['group'] for info in inferencer.class_info} == {None}
    options[key]['class_counts'] = META['class_counts']
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu', options)
    assert [info['group'] for info in inferencer.class_info] == GROUPS


def test_groups_have_the_bounds_of_the_evaluator(tmp_path):
    metric = "dict(type='GroupedAveragePrecision', head=20, tail=10)"
    evaluator = f"dict(type='Evaluator', metrics=[{metric}])"
    config, checkpoint, _ = make(tmp_path)
    config.write_text(f'{config.read_text()}test_evaluator = {evaluator}\n')
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu')
    groups = [info['group'] for info in inferencer.class_info]
    assert groups == ['head', 'head', 'head', 'tail', 'medium'] != GROUPS


def test_a_config_without_a_test_pipeline(tmp_path):
    config, checkpoint, _ = make(tmp_path)
    config.write_text(f'{config.read_text()}test_dataloader = None\n')
    words = r'no test_dataloader with pipeline; add test_dataloader\.'
    with pytest.raises(ValueError, match=words):
        MultiLabelInferencer(config, checkpoint, 'cpu')


def test_names_of_another_number(tmp_path):
    meta = dict(classes=CLASSES[:4], class_counts=[1, 2, 3, 4])
    config, checkpoint, _ = make(tmp_path, dataset_meta=meta)
    with pytest.raises(CheckpointError, match=r'fc\.bias has shape \(5,\)'):
        MultiLabelInferencer(config, checkpoint, 'cpu')
    options = {'model.num_classes': 5}
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu', options)
    with pytest.raises(ValueError, match='5 scores, but 4 class names'):
        inferencer(save(tmp_path / 'a.png'))


def test_checkpoint_that_does_not_fit(case, tmp_path):
    path = tmp_path / 'other.pth'
    state = build(PLAIN).state_dict()
    torch.save({'state_dict': state, 'meta': {'dataset_meta': META}}, path)
    with pytest.raises(CheckpointError, match=r'layer4\.0\.bn1\.bias is unex'):
        MultiLabelInferencer(case[2], path, 'cpu')


@pytest.mark.usefixtures('quiet')
def test_tables_that_the_backbone_computes_are_no_misfit():
    """MMPretrain's Swin V2 drops its position tables from what it loads."""
    backbone = dict(
        type='SwinTransformerV2',
        arch=dict(
            embed_dims=16,
            depths=[1] * 4,
            num_heads=[1] * 4,
            extra_norm_every_n_blocks=0,
        ),
        img_size=64,
        window_size=2,
    )
    cfg = Config(dict(model=dict(type='ImageClassifier', backbone=backbone)))
    state = build_model(cfg).state_dict()
    tables = [key for key in state if 'relative_' in key]
    assert tables
    weight = next(iter(state))
    model = build_model(cfg)
    assert not torch.equal(model.state_dict()[weight], state[weight])
    load_weights(model, state, 'own.pth')
    assert torch.equal(model.state_dict()[weight], state[weight])
    published = {k: v for k, v in state.items() if k not in tables}
    load_weights(model, published, 'published.pth')
    with pytest.raises(CheckpointError) as error:
        load_weights(model, {**published, weight: torch.ones(7)}, 'x.pth')
    assert f'config: {weight} has shape (7,) instead of' in str(error.value)
    assert 'relative_' not in str(error.value)


def test_scores_that_are_not_finite_are_refused(case, tmp_path):
    _, model, config, _ = case
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state['heads.uniform.fc.bias'][2] = float('nan')
    path = tmp_path / 'nan.pth'
    torch.save({'state_dict': state, 'meta': {'dataset_meta': META}}, path)
    inferencer = MultiLabelInferencer(config, path, 'cpu')
    with pytest.raises(ValueError, match='not finite'):
        inferencer(save(tmp_path / 'a.png'))


def test_pillow_images(inferencer, tmp_path):
    path = save(tmp_path / 'a.png', height=64, width=64)
    assert (
        inferencer(Image.open(path))[0]['scores']
        == (inferencer(path)[0]['scores'])
    )
    with pytest.raises(ValueError, match='of mode F has no colours'):
        inferencer(Image.new('F', (4, 4)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UnreadableImageError, match=r'a\.png: .*truncated'):
        inferencer(Image.open(path))


def test_data_samples_hold_the_branches(inferencer, tmp_path):
    (sample,) = inferencer(save(tmp_path / 'a.png'), return_datasamples=True)
    mean = sum(sample.branch_logits.values()) / 2
    torch.testing.assert_close(mean.sigmoid(), sample.pred_score)


def test_stream_leaves_out_what_cannot_be_read(inferencer, tmp_path):
    images = [save(tmp_path / f'{i}.png', i) for i in range(5)]
    images[1].write_bytes(b'')
    images[4].write_bytes(b'text')
    errors = []
    pairs = list(inferencer.stream(images, 2, errors.append))
    assert [image for image, _ in pairs] == [images[i] for i in (0, 2, 3)]
    assert [error.path for error in errors] == [str(images[i]) for i in (1, 4)]
    expected = inferencer([images[0], images[2], images[3]])
    for (_, sample), record in zip(pairs, expected, strict=True):
        np.testing.assert_allclose(sample.pred_score, scores(record), 0, 1e-5)
    with pytest.raises(UnreadableImageError, match=r'1\.png'):
        list(inferencer.stream(images, 2))


def test_folders_are_searched(inferencer, tmp_path):
    for name in ('b.png', 'sub/a.JPG', 'sub/deep/c.bmp'):
        save(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no image')
    paths = [record['path'] for record in inferencer(str(tmp_path))]
    names = ('b.png', 'sub/a.JPG', 'sub/deep/c.bmp')
    assert paths == [str(tmp_path / name) for name in names]


def test_folders_may_lie_deeper_than_python_recurses(tmp_path):
    place = tmp_path / 'deep'
    for _ in range(sys.getrecursionlimit() + 100):
        place.mkdir()
        place = place / 'd'
    try:
        path = save(place.parent / 'a.png')
        assert find_images(tmp_path / 'deep') == ([path], [])
    finally:  # pytest would recurse
        subprocess.run(['rm', '-r', tmp_path / 'deep'], check=True)


def test_printable():
    name = 'Zürich 東京\n\x1b[2J\u202etxt\udcff'
    assert printable(name) == r'Zürich 東京\n\x1b[2J\u202etxt\udcff'


#: Of pictures that are drawn.
NAMES = [f'class {k}' for k in range(40)]
SCORES = np.linspace(1, 0, 40).tolist()


def draw(image, predicted=(), **options):
    options = {'names': NAMES, 'scores': SCORES, **options}
    return np.asarray(draw_prediction(image, predicted=predicted, **options))


def test_words_lie_on_the_image_in_its_own_colours():
    image = pixels(0, height=300, width=400)
    drawn = draw(image, [3, 7])
    np.testing.assert_array_equal(drawn[150:], image[150:])
    assert (drawn[:100] != image[:100]).any()


def test_every_class_has_a_line_up_to_a_bound():
    image = np.full((300, 400, 3), 255, np.uint8)
    dark = [
        np.flatnonzero((draw(image, range(n)) < 255).any((1, 2))).max()
        for n in (1, 2, 3, MAX_LABELS, 40)
    ]
    assert min(dark[1] - dark[0], dark[2] - dark[1]) > 10
    assert dark[3] == dark[4] < 299
    # The best are shown, in whatever order they are given.
    few = draw(image, range(MAX_LABELS))
    np.testing.assert_array_equal(few, draw(image, range(39, -1, -1)))


def test_scores_and_truth_are_written():
    image = np.full((300, 400, 3), 255, np.uint8)
    one = draw(image, [1])
    assert (one != draw(image, [1], scores=[0.5] * 40)).any()
    assert (one != draw(image, [1], truth=[1])).any()


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [
        ((1, 1), (MIN_SIDE, MIN_SIDE)),
        ((3000, 1500), (3000, 1500)),
        ((2 * MAX_SIDE, 1), (MAX_SIDE, 1)),
        ((MIN_SIDE, MAX_SIDE), (MIN_SIDE, MAX_SIDE)),
        ((8, 2 * MAX_SIDE), (4, MAX_SIDE)),
    ],
)
def test_sizes_are_bounded(shape, expected):
    drawn = draw(np.zeros((*shape, 3), np.uint8), [1])
    assert drawn.shape == (*expected, 3)


def test_names_are_no_formulas_and_no_lines():
    names = ['$x$ $', 'a\nb', *NAMES[2:]]
    image = np.full((300, 400, 3), 255, np.uint8)
    escaped = ['$x$ $', 'a\\nb', *NAMES[2:]]
    drawn = draw(image, [0, 1], names=names)
    np.testing.assert_array_equal(drawn, draw(image, [0, 1], names=escaped))


@pytest.mark.parametrize('name', ['a.png', 'a.JPG', 'a.webp', '.bmp'])
def test_a_picture_has_the_format_of_its_name(name):
    picture = Image.fromarray(pixels(0))
    loaded = Image.open(io.BytesIO(encode_picture(picture, name)))
    kind = {'jpg': 'JPEG'}.get(name[-3:].lower(), name.split('.')[-1].upper())
    assert loaded.format == kind
    difference = np.asarray(loaded.convert('RGB')).astype(int) - pixels(0)
    assert np.abs(difference).max() < 40
