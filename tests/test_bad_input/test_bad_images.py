"""Images of every kind: each trains and predicts, or is named."""

import itertools
import json

import bad_run
import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

from ltml_mm.apis import MultiLabelInferencer, read_checkpoint
from ltml_mm.datasets.images import MAX_PIXELS

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config and the checkpoint of its training."""
    folder = tmp_path_factory.mktemp('trained')
    config = bad_run.write_case(folder)
    status, shown = bad_run.training(config)
    assert status == 0, shown
    return config, folder / 'work' / 'epoch_1.pth'


def pixels(seed=0, size=(40, 30)):
    """A picture of smooth colours, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.BICUBIC)


def cut(suffix):
    def write(path):
        whole = path.with_name(f'whole.{suffix}')
        pixels(size=(64, 64)).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        whole.unlink()

    return write


#: What is wrong with the file: how it comes about, and the reason given.
BAD = {
    'missing': (lambda path: None, 'no such file'),
    'empty': (lambda path: path.write_bytes(b''), 'the file is empty'),
    'truncated JPEG': (cut('jpg'), 'Truncated'),
    'truncated PNG': (cut('png'), 'truncated'),
    'truncated BMP': (cut('bmp'), 'truncated'),
    'truncated WebP': (cut('webp'), 'not an image|truncated|decode'),
    'truncated TIFF': (cut('tif'), 'not an image|truncated|decode'),
    'a link to nothing': (
        lambda path: path.symlink_to('nowhere.png'),
        'no such file',
    ),
    # Pillow would start another program for it.
    'PostScript': (
        lambda path: path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n'),
        'not an image, or not',
    ),
    'a folder': (lambda path: path.mkdir(), 'is a folder'),
    # The header alone: nothing may ask for the memory of the pixels.
    '20000x20000': (
        lambda path: path.write_bytes(b'P6 20000 20000 255\n'),
        f'the image has more than {MAX_PIXELS} pixels',
    ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_image(trained, tmp_path, case):
    """Training ends with its name; prediction passes it over with status 3."""
    make, reason = BAD[case]
    config = bad_run.write_case(tmp_path)
    path = tmp_path / 'data' / '2.png'
    path.unlink()
    make(path)
    outcome = bad_run.training(config)
    bad_run.assert_refused(outcome, rf'/data/2\.png: .*({reason})')
    bad_run.assert_nothing_half_written(tmp_path)
    expected, words = {
        'missing': (1, 'error: no such image or folder: '),
        'a link to nothing': (1, 'error: no such image or folder: '),
        'a folder': (1, 'error: no image in '),
    }.get(case, (3, f'skipped {path}: '))
    status, shown = bad_run.prediction(*trained, path)
    assert (status, words in shown) == (expected, True), shown


def test_a_data_worker_keeps_the_name(tmp_path):
    config = bad_run.write_case(tmp_path)
    (tmp_path / 'data' / '2.png').write_text('a cat')
    outcome = bad_run.training(config, 'train_dataloader.num_workers=1')
    bad_run.assert_refused(outcome, r'error: \S+/data/2\.png: not an image')


def test_bad_test_image(tmp_path):
    config = bad_run.write_case(tmp_path)
    content = json.loads((tmp_path / 'data' / 'test.json').read_text())
    content['data_list'][3]['img_path'] = 'other.png'
    (tmp_path / 'data' / 'test.json').write_text(json.dumps(content))
    bad_run.assert_refused(
        bad_run.training(config), r'/data/other\.png: no such file'
    )


def saved_as(change):
    def save(rgb, path):
        changed = change(rgb)
        changed.save(path, 'PNG')
        return changed

    return save


def add_alpha(rgb):
    layer = Image.linear_gradient('L').resize(rgb.size)
    return Image.merge('RGBA', (*rgb.split(), layer))


def save_wide_grey(rgb, path):
    wide = np.asarray(rgb.convert('L')).astype(np.uint16) * 257
    Image.fromarray(wide).save(path, 'PNG')
    return rgb.convert('L')


def save_wide_rgb(suffix):
    def save(rgb, path):
        wide = np.asarray(rgb)[..., ::-1].astype(np.uint16) * 257
        path.write_bytes(cv2.imencode(suffix, wide)[1].tobytes())
        return rgb

    return save


def save_cmyk(rgb, path):
    rgb.convert('CMYK').save(path, 'JPEG', quality=95)
    return Image.open(path)


def save_rotated(rgb, path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(path, 'JPEG', exif=exif)
    return ImageOps.exif_transpose(Image.open(path))


#: Saves a kind of picture and returns what it shows; the largest difference.
KINDS = {
    'grey': (saved_as(lambda rgb: rgb.convert('L')), 0),
    '16-bit grey': (save_wide_grey, 0),
    '16-bit PNG': (save_wide_rgb('.png'), 0),
    '16-bit TIFF': (save_wide_rgb('.tif'), 0),
    'alpha': (saved_as(add_alpha), 0),
    'palette': (saved_as(lambda rgb: rgb.quantize(16)), 0),
    '1x1': (saved_as(lambda rgb: rgb.resize((1, 1))), 0),
    'CMYK': (save_cmyk, 2),
    'EXIF-rotated': (save_rotated, 2),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kind_loads_like_its_twin(trained, tmp_path, kind):
    """In training and in prediction."""
    save, tolerance = KINDS[kind]
    path = tmp_path / 'a.png'
    twin = save(pixels(3), path).convert('RGB')
    twin.save(tmp_path / 'twin.png')
    expected = np.asarray(twin)[..., ::-1].astype(int)
    load = TRANSFORMS.build(dict(type='LoadCheckedImage'))
    loaded = load(dict(img_path=str(path)))['img']
    assert loaded.shape == expected.shape
    assert loaded.dtype == np.uint8
    assert np.abs(loaded - expected).max() <= tolerance
    inferencer = MultiLabelInferencer(*trained, 'cpu')
    np.testing.assert_array_equal(inferencer.load(path)['img'], loaded)
    one, two = inferencer([path, tmp_path / 'twin.png'])
    assert list(one['scores'].values()) == pytest.approx(
        list(two['scores'].values()), abs=0.02 * tolerance
    )


def test_kinds_train_like_their_twins(tmp_path):
    """Bitwise, for all that are lossless: a set of them and one of twins."""
    lossless = [save for save, tolerance in KINDS.values() if not tolerance]
    weights = []
    for as_twins in (False, True):
        folder = tmp_path / str(as_twins)
        config = bad_run.write_case(folder)
        for seed, save in zip(range(10), itertools.cycle(lossless)):
            path = folder / 'data' / f'{seed}.png'
            twin = save(pixels(seed), path)
            if as_twins:
                twin.convert('RGB').save(path)
        status, shown = bad_run.training(config)
        assert status == 0, shown
        checkpoint = read_checkpoint(folder / 'work' / 'epoch_1.pth')
        weights.append(checkpoint['state_dict'])
    torch.testing.assert_close(*weights, rtol=0, atol=0)
