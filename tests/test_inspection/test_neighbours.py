import io

import numpy as np
import pytest
import torch
from PIL import Image

from ltml_mm.inspection import neighbours
from ltml_mm.inspection.neighbours import (
    Features,
    Matches,
    difference_hash,
    differing,
)


def pictures(number, seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (number, 6, 8, 3), np.uint8)
    return [Image.fromarray(s).resize((80, 60), Image.BICUBIC) for s in small]


def tensor(picture):
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1))


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=60)
    return Image.open(file).convert('RGB')


def units(number, width, seed):
    vectors = np.random.default_rng(seed).normal(size=(number, width))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def search(own, others, vectors, batch):
    best = Matches(own)
    for start in range(0, len(others), batch):
        part = slice(start, start + batch)
        index = np.arange(len(others))[part]
        images = [tensor(picture) for picture in others[part]]
        best.add(None if vectors is None else vectors[part], images, index)
    return best


@pytest.mark.parametrize('with_vectors', [True, False])
def test_copies_are_found_and_no_others(with_vectors):
    test, train = pictures(12, 0), pictures(30, 1)
    vectors, own = units(30, 16, 2), units(12, 16, 3)
    changes = {
        3: lambda p: p,
        8: encoded,
        11: lambda p: p.resize((53, 40), Image.BILINEAR),
        20: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    for image, (place, change) in enumerate(changes.items()):
        train[place] = change(test[image])
        vectors[place] = own[image]
    features = Features(12)
    features.add(own if with_vectors else None, map(tensor, test))
    best = search(features, train, vectors if with_vectors else None, 7)
    assert best.same.tolist() == [True] * 4 + [False] * 8
    assert best.index[:4].tolist() == [*changes]
    # How the training set is cut into batches changes nothing.
    whole = search(features, train, vectors if with_vectors else None, 30)
    np.testing.assert_array_equal(whole.index, best.index)
    np.testing.assert_array_equal(whole.cosine, best.cosine)


def test_a_hash_alone_makes_no_copy():
    test, train = pictures(1, 0), pictures(1, 0)
    features = Features(1)
    features.add(units(1, 16, 0), map(tensor, test))
    best = search(features, train, units(1, 16, 5), 1)
    assert (best.bits[0], best.same[0]) == (0, False)


def test_cosines_in_blocks(monkeypatch):
    vectors = units(50, 24, 0)
    features = Features(50)
    features.add(vectors, [torch.zeros(3, 8, 9)] * 50)
    expected = vectors @ vectors[:5].T
    for block in (4096, 7):
        monkeypatch.setattr(neighbours, 'BLOCK', block)
        found = features.cosines(features.project(vectors[:5]))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_wide_features_are_projected(monkeypatch):
    """The memory is bounded, and cosines are kept nearly."""
    monkeypatch.setattr(neighbours, 'FEATURE_BYTES', 100 * 2 * 256)
    vectors = units(100, 4096, 0)
    vectors[1] = 0.99 * vectors[0] + 0.01 * vectors[1]
    features = Features(100)
    features.add(vectors, [torch.zeros(3, 8, 9)] * 100)
    assert features.vectors.nbytes == 100 * 2 * 256
    found = features.cosines(features.project(vectors[:1]))[:, 0]
    np.testing.assert_allclose(found[:2], 1, atol=0.01)
    assert np.abs(found[2:] - vectors[2:] @ vectors[0]).max() < 0.25


def test_hash_by_hand():
    image = torch.zeros(3, 8, 9)
    image[:, :, 1:] = torch.arange(8)  # lighter from left to right
    bits = np.unpackbits(difference_hash(image)).reshape(8, 8)
    assert bits.tolist() == [[0, *[1] * 7]] * 8
    first, second = np.random.default_rng(0).integers(0, 256, (2, 5, 8))
    expected = [
        [
            sum(bin(a ^ b).count('1') for a, b in zip(x, y, strict=True))
            for y in second
        ]
        for x in first
    ]
    found = differing(first.astype(np.uint8), second.astype(np.uint8))
    assert found.tolist() == expected
