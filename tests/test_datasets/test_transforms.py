"""The training augmentations, pixel by pixel against their definition."""

import colorsys

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import PackInputs

from ltml_mm.datasets import (
    PackImage,
    PhotoMetricDistortion,
    RandomMirror,
    RandomRatioCrop,
)

OFF = dict(
    brightness_delta=0,
    contrast_range=(1, 1),
    saturation_range=(1, 1),
    hue_delta=0,
)


@pytest.fixture(autouse=True)
def _seed():
    state = np.random.get_state()
    np.random.seed(0)
    yield
    np.random.set_state(state)


def noise(height=12, width=9, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


# -- RandomRatioCrop ---------------------------------------------------------


def windows(crop, height, width, times):
    """Reads each window off an image whose pixels are their place."""
    image = np.dstack(np.indices((height, width)))
    for _ in range(times):
        results = crop({'img': image})
        img = results['img']
        assert results['img_shape'] == img.shape[:2]
        (top, left), (bottom, right) = img[0, 0], img[-1, -1]
        assert img.shape[:2] == (bottom - top + 1, right - left + 1)
        yield top, bottom + 1, left, right + 1


def test_windows_keep_at_least_the_ratio_of_each_side():
    sides = [
        (bottom - top, right - left)
        for top, bottom, left, right in windows(
            RandomRatioCrop(0.8), 100, 50, 2000
        )
    ]
    heights, widths = np.array(sides).T
    assert (heights.min(), heights.max()) == (80, 100)
    assert (widths.min(), widths.max()) == (40, 50)
    # Each side uniformly, and independently of the other.
    assert abs(heights.mean() - 90) < 0.6
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.1


def test_windows_lie_anywhere():
    starts = {
        (t, left)
        for t, _, left, _ in windows(RandomRatioCrop(0.5), 6, 6, 3000)
    }
    assert starts == {(t, left) for t in range(4) for left in range(4)}


def test_a_single_pixel_survives():
    image = noise(1, 1)
    assert RandomRatioCrop(0.01)({'img': image})['img'].shape == (1, 1, 3)


@pytest.mark.parametrize('ratio', [0, -0.1, 1.01, float('nan')])
def test_bad_ratios_are_named(ratio):
    with pytest.raises(ValueError, match=r'min_ratio must be in \(0, 1\]'):
        RandomRatioCrop(ratio)


# -- PhotoMetricDistortion ---------------------------------------------------


@pytest.fixture
def coins(monkeypatch):
    """Lets a test say which of the five coins fall, in their order."""

    def coins(**falls):
        order = ['brightness', 'contrast_first', 'contrast']
        if not falls.get('contrast_first'):
            order = ['brightness', 'contrast_first', 'saturation', 'hue']
            order.append('contrast')
        else:
            order += ['saturation', 'hue']
        values = iter([falls.get(name, False) for name in order])
        monkeypatch.setattr(
            'ltml_mm.datasets.transforms._coin', lambda: next(values)
        )

    return coins


def distort(image, **ranges):
    return PhotoMetricDistortion(**{**OFF, **ranges})({'img': image})['img']


def by_pixel(image, change):
    """Applies a change of (h, s, v), h in degrees, to each BGR pixel."""
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        blue, green, red = image[place] / 255.0
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        h, s, v = change(360 * h, s, v)
        rgb = colorsys.hsv_to_rgb(h / 360 % 1, min(s, 1), v)
        result[place] = 255 * np.array(rgb[::-1])
    return result


def assert_close(image, expected):
    expected = np.clip(expected, 0, 255)
    assert image.dtype == np.uint8
    # Rounding, and the tables that OpenCV converts with.
    assert abs(image - expected).max() <= 1


def test_nothing_happens_when_no_coin_falls(coins):
    coins()
    assert (distort(noise()) == noise()).all()


def test_brightness_is_added(coins, monkeypatch):
    coins(brightness=True)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: high)
    assert_close(distort(noise(), brightness_delta=32), noise() + 32.0)
    coins(brightness=True)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: low)
    assert_close(distort(noise(), brightness_delta=32), noise() - 32.0)


@pytest.mark.parametrize('first', [True, False])
def test_contrast_is_multiplied(coins, first):
    coins(contrast=True, contrast_first=first)
    image = noise() // 2
    assert_close(distort(image, contrast_range=(1.4, 1.4)), image * 1.4)


@pytest.mark.parametrize('factor', [0.5, 1.5])
def test_saturation_against_colorsys(coins, factor):
    coins(saturation=True)
    expected = by_pixel(noise(), lambda h, s, v: (h, s * factor, v))
    assert_close(distort(noise(), saturation_range=(factor, factor)), expected)


@pytest.mark.parametrize('shift', [18, -18, 90])
def test_hue_against_colorsys(coins, monkeypatch, shift):
    coins(hue=True)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: shift)
    expected = by_pixel(noise(), lambda h, s, v: (h + shift, s, v))
    assert_close(distort(noise(), hue_delta=18), expected)


def test_grey_keeps_its_hue(coins, monkeypatch):
    coins(hue=True, saturation=True)
    grey = np.repeat(noise()[..., :1], 3, axis=2)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: high)
    assert_close(distort(grey, hue_delta=18, saturation_range=(1, 1.5)), grey)


def test_each_step_is_taken_half_of_the_time():
    grey = np.full((1, 1, 3), 100, np.uint8)
    changed = [
        distort(grey, brightness_delta=32).max() != 100 for _ in range(2000)
    ]
    # A delta that rounds to nothing is rare: 1/64.
    assert abs(np.mean(changed) - 0.5 * 63 / 64) < 0.04


def test_the_image_given_is_not_changed():
    image = noise()
    for _ in range(20):
        PhotoMetricDistortion()({'img': image})
    assert (image == noise()).all()


def test_both_are_registered_and_say_their_settings():
    for config in (
        dict(type='RandomRatioCrop', min_ratio=0.7),
        dict(type='PhotoMetricDistortion', hue_delta=9),
    ):
        text = repr(TRANSFORMS.build(config))
        assert text.startswith(config['type'])
        key, value = list(config.items())[1]
        assert f'{key}={value}' in text


# -- in less time ------------------------------------------------------------


def slow_distortion(img):
    """The definition of PhotoMetricDistortion, step by step in float32."""

    def contrast(img):
        drawn = np.random.randint(2)
        return img * np.random.uniform(0.5, 1.5) if drawn else img

    def colour(img):
        hsv = cv2.cvtColor(img.clip(0, 255), cv2.COLOR_BGR2HSV)
        if np.random.randint(2):
            hsv[..., 1] *= np.random.uniform(0.5, 1.5)
            hsv[..., 1] = hsv[..., 1].clip(0, 1)
        if np.random.randint(2):
            hsv[..., 0] += np.random.uniform(-18, 18)
            hsv[..., 0] %= 360
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    img = img.astype(np.float32)
    if np.random.randint(2):
        img += np.random.uniform(-32, 32)
    steps = [contrast, colour]
    for step in steps if np.random.randint(2) else steps[::-1]:
        img = step(img)
    return np.rint(img).clip(0, 255).astype(np.uint8)


def test_distortion_is_its_definition_bitwise():
    for seed in range(80):
        # Noise, and what is smooth or grey.
        image = noise(40, 30, seed)
        if seed % 4 == 1:
            image = cv2.resize(image[:3, :3], (30, 40))
        if seed % 4 == 2:
            image[:] = image[..., :1]
        np.random.seed(seed)
        expected = slow_distortion(image)
        after = np.random.rand()
        np.random.seed(seed)
        found = PhotoMetricDistortion()({'img': image})['img']
        assert (found == expected).all()
        # As many draws, too.
        assert np.random.rand() == after


@pytest.mark.parametrize('prob', [0.5, 0.2])
def test_mirror_and_pack_are_the_stock_ones(prob):
    stock = [RandomFlip(prob=prob, direction='horizontal'), PackInputs()]
    own = [RandomMirror(prob=prob), PackImage()]
    mirrored = []
    for seed in range(60):
        packed = []
        for steps in (stock, own):
            np.random.seed(seed)
            results = {'img': noise(), 'gt_label': [1, 2], 'sample_idx': seed}
            for step in steps:
                results = step(results)
            packed.append(results)
        expected, found = packed
        assert torch.equal(expected['inputs'], found['inputs'])
        assert found['inputs'].is_contiguous()
        samples = [p['data_samples'] for p in packed]
        assert samples[0].metainfo == samples[1].metainfo
        assert torch.equal(samples[0].gt_label, samples[1].gt_label)
        mirrored.append(samples[1].flip)
    assert abs(np.mean(mirrored) - prob) < 0.2


@pytest.mark.parametrize('shape', [(6, 5), (6, 5, 1), (6, 5, 4)])
def test_other_images_are_packed_as_by_the_stock_one(shape):
    image = np.arange(np.prod(shape)).reshape(shape)
    expected = PackInputs()({'img': image})['inputs']
    packed = PackImage(meta_keys=['a'])({'img': image, 'mirror': True})
    assert torch.equal(packed['inputs'], expected)
    assert packed['data_samples'].mirror  # whatever keys are asked for
