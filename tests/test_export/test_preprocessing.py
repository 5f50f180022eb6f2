"""The exported preprocessing is OpenCV's, level by level."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import CenterCrop, Compose
from mmpretrain.datasets.transforms import ResizeEdge
from mmpretrain.models import ClsDataPreprocessor

from ltml_mm.export.preprocessing import CenterCrop as ExportedCrop
from ltml_mm.export.preprocessing import Resize, build_preprocessing

LENGTHS = st.integers(1, 70)
LOAD, PACK = dict(type='LoadCheckedImage'), dict(type='PackInputs')


def pixels(height, width, count=1):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, LENGTHS, LENGTHS, LENGTHS)
def test_resizing_is_that_of_opencv(height, width, new_height, new_width):
    images = pixels(height, width, 2)
    found = Resize(new_height, new_width)(torch.from_numpy(images))
    expected = [cv2.resize(i, (new_width, new_height)) for i in images]
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(16, 21))
def test_edge_and_crop_are_those_of_the_stock_pipeline(height, width, size):
    (image,) = images = pixels(height, width)
    stock = Compose([ResizeEdge(21), CenterCrop(size)])
    resized = Resize(21, None)(torch.from_numpy(images))
    found = ExportedCrop(size, size)(resized)
    np.testing.assert_array_equal(found[0], stock({'img': image})['img'])


@pytest.mark.parametrize('to_rgb', [True, False])
def test_colours_and_normalisation(to_rgb):
    own = ClsDataPreprocessor((1.0, 2, 3), (4.0, 5, 6), to_rgb=to_rgb)
    steps = [LOAD, dict(type='Resize', scale=(8, 6)), PACK]
    images = pixels(6, 8, 2)
    found = build_preprocessing(steps, own)(torch.from_numpy(images))
    rgb = images.astype(float).transpose(0, 3, 1, 2)
    given = rgb if to_rgb else rgb[:, ::-1]
    mean = np.array([1, 2, 3]).reshape(3, 1, 1)
    np.testing.assert_allclose(found, (given - mean) / (mean + 3), rtol=1e-6)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Resize', scale=(8, 8), keep_ratio=True),
        dict(type='Resize', scale_factor=0.5),
        dict(type='Resize', scale=(8, 8), interpolation='bicubic'),
        dict(type='ResizeEdge', scale=8, backend='pillow'),
        dict(type='ResizeEdge', scale=8, edge='long'),
        dict(type='LoadImageFromFile', color_type='grayscale'),
        dict(type='RandomFlip', prob=0.5),
    ],
    ids=str,
)
def test_a_step_without_counterpart_is_named(step):
    steps = [dict(type='Resize', scale=8), step, PACK]
    with pytest.raises(ValueError, match=step['type']) as error:
        build_preprocessing(steps, ClsDataPreprocessor())
    assert '--without-preprocessing' in str(error.value)


def test_a_pipeline_that_keeps_the_size():
    images = torch.from_numpy(pixels(5, 7))
    found = build_preprocessing([LOAD, PACK], ClsDataPreprocessor())(images)
    assert torch.equal(found, images.permute(0, 3, 1, 2).flip(1).float())


def test_a_crop_of_images_of_any_size_is_refused():
    crop = dict(type='CenterCrop', crop_size=8)
    with pytest.raises(ValueError, match='before any resizing'):
        build_preprocessing([LOAD, crop, PACK], ClsDataPreprocessor())
