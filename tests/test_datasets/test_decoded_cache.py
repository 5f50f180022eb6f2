"""Decoded images are shared, exact, bounded and never half-written."""

import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
from PIL import Image

from ltml_mm.datasets import LongTailMultiLabelDataset, decoded_cache
from ltml_mm.datasets.decoded_cache import (
    DecodedCache,
    cache_folder,
    file_state,
    open_cache,
)
from ltml_mm.datasets.images import UnreadableImageError

FORK = multiprocessing.get_context('fork')
SHAPE = (20, 24, 3)
BYTES = int(np.prod(SHAPE))


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture
def images(tmp_path):
    """Eight files, whose content does not matter to the cache itself."""
    paths = [tmp_path / f'{number}.png' for number in range(8)]
    for number, path in enumerate(paths):
        Image.fromarray(pixels(number)).save(path)
    return [str(path) for path in paths]


def build(tmp_path, images, room=8):
    return DecodedCache(tmp_path / 'x.images', images, room * BYTES)


def keep(cache, images, numbers):
    for number in numbers:
        image = images[number]
        cache.write(image, file_state(image), pixels(number))


def kept(cache, images):
    found = [
        number for number in range(8) if cache.read(images[number]) is not None
    ]
    for number in found:
        assert (cache.read(images[number]) == pixels(number)).all()
    return found


# -- one file ----------------------------------------------------------------


def test_what_is_kept_is_read_by_others_and_a_copy(tmp_path, images):
    cache = build(tmp_path, images)
    assert cache.read(images[3]) is None
    keep(cache, images, [3, 5])
    cache.read(images[3])[:] = 0
    assert kept(cache, images) == [3, 5]
    assert kept(build(tmp_path, images), images) == [3, 5]
    # As a spawned worker gets it, and a copied dataset.
    assert kept(pickle.loads(pickle.dumps(cache)), images) == [3, 5]
    assert cache.read('elsewhere.png') is None


def test_grey_images_and_what_is_not_kept(tmp_path, images):
    cache = build(tmp_path, images)
    state = file_state(images[0])
    cache.write(images[0], state, pixels(0)[..., 0])
    assert (cache.read(images[0]) == pixels(0)[..., 0]).all()
    cache.write(images[1], state, pixels(1).astype(np.float32))
    assert cache.read(images[1]) is None


def test_another_state_of_the_file_is_another_image(tmp_path, images):
    cache = build(tmp_path, images)
    keep(cache, images, range(3))
    size, changed = os.path.getsize(images[0]), file_state(images[0])[1]
    with open(images[0], 'r+b') as file:  # as long, and as old
        file.seek(size - 20)
        file.write(b'\0')
    os.utime(images[0], ns=(changed, changed))
    os.utime(images[1])
    os.unlink(images[2])
    assert kept(cache, images) == []
    keep(cache, images, [0, 1])
    assert kept(cache, images) == [0, 1]


def test_the_bound_holds(tmp_path, images, caplog):
    cache = build(tmp_path, images, room=3)
    keep(cache, images, range(8))
    assert kept(cache, images) == [0, 1, 2]
    assert kept(build(tmp_path, images, room=3), images) == [0, 1, 2]
    assert os.path.getsize(tmp_path / 'x.images') <= 3 * BYTES + 128 + 64 * 8


def test_the_disk_has_what_is_written_alone(tmp_path, images):
    cache = build(tmp_path, images, room=100_000)
    keep(cache, images, [0])
    found = os.stat(cache.path)
    assert found.st_size > 100_000 * BYTES
    assert found.st_blocks * 512 < 100 * BYTES


def test_images_that_a_list_has_twice(tmp_path, images):
    listed = [*images[:2], *images]
    cache = DecodedCache(tmp_path / 'x.images', listed, 8 * BYTES)
    for numbers in (range(8), range(8)):
        keep(cache, images, numbers)
        assert kept(cache, images) == [*range(8)]


def test_holes_are_not_read_through_the_map(tmp_path, images):
    cache = build(tmp_path, images)
    # Where the file lies in a memory that is full, the system ends who does.
    cache._map = b''
    assert cache.read(images[0]) is None


@pytest.mark.parametrize('place', [0, 60, 130, -1])
def test_a_flipped_byte_is_never_an_image(tmp_path, images, place):
    keep(build(tmp_path, images, room=1), images, [0])
    with open(tmp_path / 'x.images', 'r+b') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(place % size)
        byte = file.read(1)
        file.seek(place % size)
        file.write(bytes([byte[0] ^ 1]))
    # The used bytes, at 60, belong to no image: those are still whole.
    found = kept(build(tmp_path, images, room=1), images)
    assert found == ([0] if place == 60 else [])


def test_a_file_that_is_cut_or_of_another_start_is_made_anew(
    tmp_path, images, monkeypatch
):
    keep(build(tmp_path, images), images, [0])
    os.truncate(tmp_path / 'x.images', 100)
    keep(build(tmp_path, images), images, [1])
    assert kept(build(tmp_path, images), images) == [1]
    monkeypatch.setattr(decoded_cache, '_boot', lambda: b'1' * 36)
    assert kept(build(tmp_path, images), images) == []


def test_a_full_disk_ends_the_writing_alone(tmp_path, images, monkeypatch):
    cache = build(tmp_path, images)
    keep(cache, images, [0])

    def full(*_):
        raise OSError(28, 'No space left on device')

    said = []
    monkeypatch.setattr(decoded_cache.os, 'pwrite', full)
    monkeypatch.setattr(decoded_cache, '_say', lambda *a: said.append(a[0]))
    keep(cache, images, range(8))
    assert kept(cache, images) == [0]
    assert len(said) == 1
    assert 'No space left' in said[0]


# -- processes ---------------------------------------------------------------


def fill(tmp_path, images, numbers):
    keep(build(tmp_path, images), images, numbers)


def test_processes_that_build_at_once(tmp_path, images):
    # All of them write all images, so each meets the others' everywhere.
    orders = [np.random.default_rng(i).permutation(8) for i in range(4)]
    started = [
        FORK.Process(target=fill, args=(tmp_path, images, order))
        for order in orders
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    # Each image once: they just fit.
    assert kept(build(tmp_path, images), images) == list(range(8))


@pytest.mark.parametrize('writes', [0, 1, 2])
def test_killed_half_way(tmp_path, images, writes):
    """Killed after so many of the three writes of an image."""

    def dying(*_):
        done = []
        original = decoded_cache._write

        def write(file, content, offset):
            if len(done) == writes:
                # Half of it, and no lock is given back.
                original(
                    file, memoryview(content)[: len(content) // 2], offset
                )
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(offset)
            original(file, content, offset)

        decoded_cache._write = write
        fill(tmp_path, images, [2])

    fill(tmp_path, images, [1])
    process = FORK.Process(target=dying)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    cache = build(tmp_path, images)
    assert kept(cache, images) == [1]
    keep(cache, images, [2, 3])
    assert kept(build(tmp_path, images), images) == [1, 2, 3]


# -- which images, and where -------------------------------------------------


def test_what_fits_is_kept_by_default(images, monkeypatch):
    assert open_cache(images, 'auto', ()) is not None
    said = []
    monkeypatch.setattr(decoded_cache, '_say', lambda *a: said.append(a[0]))
    monkeypatch.setattr(decoded_cache, '_promised', {})
    monkeypatch.setattr(decoded_cache, 'available_memory', lambda: BYTES * 15)
    assert open_cache(images[:7], 'auto', ()) is not None
    assert open_cache(images, 'auto', (1,)) is None
    assert 'images are not kept decoded: they would take' in said[-1]
    # Two lists that fit by themselves have to fit together.
    monkeypatch.setattr(decoded_cache, 'available_memory', lambda: BYTES * 20)
    monkeypatch.setattr(decoded_cache, '_promised', {})
    assert open_cache(images[:6], 'auto', (2,)) is not None
    assert open_cache(images[1:], 'auto', (3,)) is None
    # A told size counts, whatever is free.
    assert open_cache(images, 3 * BYTES / 2**30, ()).capacity == 3 * BYTES


def test_the_name_says_images_and_decoder(images):
    paths = [
        open_cache(images, 'auto', ()).path,
        open_cache(images[:7], 'auto', ()).path,
        open_cache(images, 'auto', ('cv2',)).path,
        open_cache(images, 1e-6, ()).path,
    ]
    assert len(set(paths)) == 4
    assert open_cache(images, 'auto', ()).path == paths[0]


def test_old_caches_go(images, monkeypatch):
    old = open_cache(images[:3], 'auto', ())
    week = time.time() - 8 * 24 * 3600
    own = cache_folder() / 'mine.images.tar'
    own.touch()
    for path in (old.path, own):
        os.utime(path, (week, week))
    monkeypatch.setattr(decoded_cache, '_say', lambda *a: None)
    open_cache(images, 'auto', ())
    assert not os.path.exists(old.path)
    assert own.exists()


def test_a_folder_that_cannot_be_written(images, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('LTML_IMAGE_CACHE', str(tmp_path / 'file' / 'below'))
    said = []
    monkeypatch.setattr(decoded_cache, '_say', lambda *a: said.append(a[0]))
    assert open_cache(images, 'auto', ()) is None
    assert 'images are not kept decoded' in said[0]


def test_the_folder_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.delenv('LTML_IMAGE_CACHE')
    monkeypatch.setattr(decoded_cache.tempfile, 'tempdir', str(tmp_path))
    folder = cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(OSError, match='not a folder of this user alone'):
        cache_folder()


@pytest.mark.parametrize('setting', [True, 0, -1, 'yes', float('inf')])
def test_other_settings_are_named(images, setting):
    with pytest.raises(ValueError, match=r"image_cache must be 'auto'"):
        open_cache(images, setting, ())


# -- the dataset -------------------------------------------------------------


def test_a_dataset_loads_the_same_from_the_cache(data, monkeypatch):
    def make(setting, **kwargs):
        return LongTailMultiLabelDataset(
            data_root=str(data),
            ann_file='train.json',
            image_cache=setting,
            pipeline=[dict(type='LoadCheckedImage', **kwargs)],
        )

    plain, cached = make(False), make('auto')
    loader = cached.pipeline.transforms[0]
    for _ in range(2):
        for index in range(len(plain)):
            expected, found = plain[index], cached[index]
            assert expected.keys() == found.keys()
            for key in expected:
                assert np.array_equal(expected[key], found[key])
        # From now on nothing is decoded.
        monkeypatch.setattr(loader, '_decode', None)
    half = cached.get_subset(range(5))
    assert np.array_equal(half[4]['img'], plain[4]['img'])
    assert make('auto', to_float32=True).pipeline.transforms[0].cache is None


def test_a_bad_image_is_an_error_with_a_cache_too(tmp_path, data):
    folder = tmp_path / 'bad'
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / '0.png').write_bytes((data / '0.png').read_bytes()[:-30])
    (folder / '1.png').unlink()
    dataset = LongTailMultiLabelDataset(
        data_root=str(folder),
        ann_file='train.json',
        image_cache='auto',
        pipeline=[dict(type='LoadCheckedImage')],
    )
    for index in (0, 1, 0):
        with pytest.raises(UnreadableImageError, match=f'{index}.png'):
            dataset[index]
