"""On the device the same is done as image by image, from the same draws."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS

from ltml_mm.datasets.transforms import Distortion, distort
from ltml_mm.models import device_augment
from ltml_mm.models.device_augment import augment, distort_batch

NUMBER = 48


def pictures(side=32):
    """Noise, smooth pictures, grey ones and flat ones, (H, W, 3) each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUMBER, side, side, 3), np.uint8)
    for image in images[1::4]:
        image[:] = cv2.resize(image[:4, :4], (side, side))
    images[2::4] = images[2::4, ..., :1]
    images[3::4] = images[3::4, :1, :1]
    return [*images]


def run(images, on_device, seed=5):
    """Packs images as the pipeline of a training does."""
    steps = [
        TRANSFORMS.build(dict(type='PhotoMetricDistortion')),
        TRANSFORMS.build(dict(type='RandomMirror')),
    ]
    for step in steps:
        step.on_device = on_device
    steps.append(TRANSFORMS.build(dict(type='PackImage')))
    state = np.random.get_state()
    packed = []
    for number, image in enumerate(images):
        np.random.seed(seed + number)
        results = {'img': image.copy(), 'gt_label': [number % 3]}
        for step in steps:
            results = step(results)
        packed.append(results)
    np.random.set_state(state)
    return packed


def test_other_draws_are_no_other_program(monkeypatch):
    # As on a GPU, where all images are distorted at once.
    monkeypatch.setattr(device_augment, '_distort_each', distort_batch)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(
        lambda images, samples: augment(images + 1, samples), backend=backend
    )
    for seed in range(4):
        packed = run(pictures()[:3], on_device=True, seed=seed)
        images = torch.stack([p['inputs'] for p in packed])
        compiled(images, [p['data_samples'] for p in packed])
    assert len(graphs) == 1


def prepare(batch, **kwargs):
    kwargs = dict(mean=[9, 8, 7], std=[2, 3, 4], to_rgb=True, **kwargs)
    build = dict(type='TwoStreamDataPreprocessor', **kwargs)
    return MODELS.build(build)(batch, training=True)['inputs']


@pytest.fixture(scope='module')
def drawn():
    """The draws of a pipeline for a batch, with every kind of them."""
    packed = run(pictures(), on_device=True)
    samples = [p['data_samples'] for p in packed]
    settings = [Distortion(*s.distortion) for s in samples]
    for name, off in Distortion._field_defaults.items():
        used = np.mean([getattr(s, name) != off for s in settings])
        assert 0.1 < used < 0.9
    assert {s.mirror for s in samples} == {True, False}
    return settings


def test_the_images_stay_as_they_are_for_the_device():
    for image, packed in zip(
        pictures(), run(pictures(), on_device=True), strict=True
    ):
        assert (packed['inputs'].numpy() == image.transpose(2, 0, 1)).all()


def test_a_batch_is_distorted_as_each_image(drawn):
    images = np.stack(pictures())
    expected = [
        distort(image, setting)
        for image, setting in zip(images, drawn, strict=True)
    ]
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    found = distort_batch(batch, drawn)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.round().clamp(0, 255))
    error = np.stack(expected).transpose(0, 3, 1, 2) - found.numpy()
    # A level where float32 rounds another way, in few places.
    assert abs(error).max() <= 1
    assert (error != 0).mean() < 1e-3


@pytest.mark.parametrize('shift', [-400, -18, 359, 400])
def test_any_turn_of_the_hue(shift):
    image = pictures()[0]
    setting = Distortion(hue=float(shift))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    found = distort_batch(batch, [setting])[0].permute(1, 2, 0).numpy()
    assert abs(distort(image, setting) - found).max() <= 1


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
def test_on_a_cpu_the_batch_is_the_workers_bitwise(collate):
    batches = [collate(run(pictures(), place)) for place in (False, True)]
    expected, found = (prepare(batch) for batch in batches)
    assert found.dtype == torch.float32
    assert torch.equal(expected, found)


def test_no_image_depends_on_the_others_or_on_its_place():
    packed = run(pictures(), on_device=True)
    whole = prepare(default_collate(packed))
    for chosen in ([0], [7, 3], range(10, 30)):
        part = prepare(default_collate([packed[i] for i in chosen]))
        assert torch.equal(part, whole[[*chosen]])


def test_each_stream_has_its_own_draws():
    streams = {
        'uniform': run(pictures(), True, seed=0),
        'rebalanced': run(pictures(), True, seed=999),
    }
    pairs = [
        {
            key: {name: row[i][key] for name, row in streams.items()}
            for key in ('inputs', 'data_samples')
        }
        for i in range(NUMBER)
    ]
    found = prepare(default_collate(pairs))
    for name, row in streams.items():
        assert torch.equal(found[name], prepare(default_collate(row)))


@pytest.mark.gpu
def test_on_a_gpu_within_one_level():
    batch = default_collate(run(pictures(), on_device=True))
    model = MODELS.build(dict(type='TwoStreamDataPreprocessor'))
    on_cpu = model(batch)['inputs']
    on_gpu = model.cuda()(default_collate(run(pictures(), True)))['inputs']
    error = on_gpu.cpu() - on_cpu
    assert abs(error).max() <= 1
    assert (error != 0).float().mean() < 1e-3
