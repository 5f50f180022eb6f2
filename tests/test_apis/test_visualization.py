"""Pictures of predictions."""

import io

import numpy as np
import pytest
from inference_case import pixels
from PIL import Image

from ltml_mm.apis.model import (
    MAX_LABELS,
    MAX_SIDE,
    MIN_SIDE,
    draw_prediction,
    encode_picture,
)

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
        ((3000, 1500), (MAX_SIDE, MAX_SIDE // 2)),
        ((9000, 1), (MAX_SIDE, 1)),
        ((MIN_SIDE, MAX_SIDE), (MIN_SIDE, MAX_SIDE)),
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
