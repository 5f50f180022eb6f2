"""Errors that other classes explain, and the pictures nearest to one."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import fisher_exact

from ltml_mm.inspection import neighbours
from ltml_mm.inspection.cooccurrence_errors import false_alarms, lonely_misses
from ltml_mm.inspection.neighbours import (
    Features,
    Matches,
    difference_hash,
    differing,
)


def draw(num_images=150, num_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.random((num_images, num_classes)) < 0.3
    predicted = targets ^ (rng.random(targets.shape) < 0.25)
    # Where class 0 is there, class 1 is predicted most often though absent.
    fires = targets[:, 0] & ~targets[:, 1]
    predicted[:, 1] |= fires & (rng.random(num_images) < 0.7)
    # Without class 2, class 3 is missed.
    lonely = targets[:, 3] & ~targets[:, 2]
    predicted[:, 3] &= ~lonely | (rng.random(num_images) < 0.4)
    return targets, predicted


def by_loop(targets, predicted, misses):
    """Counts pair by pair and image by image; p-values not adjusted."""
    found = {}
    num_classes = targets.shape[1]
    for p, a in itertools.permutations(range(num_classes), 2):
        first, second = [0, 0], [0, 0]  # images, errors
        for truth, said in zip(targets, predicted, strict=True):
            if truth[a] != misses:
                continue
            inside = first if truth[p] != misses else second
            inside[0] += 1
            inside[1] += said[a] != truth[a]
        meet = (targets[:, p] & targets[:, a]).any()
        if misses and not meet:
            continue
        table = [
            [first[1], first[0] - first[1]],
            [second[1], second[0] - second[1]],
        ]
        chance = fisher_exact(table, alternative='greater').pvalue
        found[p, a] = (*first, *second, chance)
    return found


def adjusted(found, number):
    """Benjamini and Hochberg's p-values, by their definition."""
    ranked = sorted(found, key=lambda pair: -found[pair][4])
    least, result = 1.0, {}
    for rank, pair in zip(range(len(ranked), 0, -1), ranked, strict=True):
        least = min(least, found[pair][4] * number / rank)
        result[pair] = least
    return result


@pytest.mark.parametrize('misses', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_against_a_loop(misses, seed):
    targets, predicted = draw(seed=seed)
    compute = lonely_misses if misses else false_alarms
    rows = compute(targets, predicted, level=1)
    expected = by_loop(targets, predicted, misses)
    chances = adjusted(expected, 20)
    kept = {
        pair: values
        for pair, values in expected.items()
        if values[1] / values[0] > values[3] / values[2]
    }
    assert {(r['neighbour'], r['subject']) for r in rows} == set(kept)
    for row in rows:
        pair = row['neighbour'], row['subject']
        images, errors, others, other_errors, _ = kept[pair]
        assert (row['images'], row['errors']) == (images, errors)
        assert row['other_images'] == others
        assert row['other_errors'] == other_errors
        assert row['rate'] == pytest.approx(errors / images)
        assert row['baseline'] == pytest.approx(other_errors / others)
        excess = errors - images * other_errors / others
        assert row['excess'] == pytest.approx(excess)
        assert row['p_value'] == pytest.approx(chances[pair])
    assert rows == sorted(rows, key=lambda row: -row['excess'])


def test_what_was_put_in_is_found_and_nothing_else():
    targets, predicted = draw(2000)
    alarms = false_alarms(targets, predicted)
    assert [(r['neighbour'], r['subject']) for r in alarms] == [(0, 1)]
    misses = lonely_misses(targets, predicted)
    assert [(r['neighbour'], r['subject']) for r in misses] == [(2, 3)]


def test_independent_errors_are_seldom_listed():
    rng = np.random.default_rng(1)
    listed = 0
    for _ in range(20):
        targets = rng.random((300, 6)) < 0.3
        predicted = targets ^ (rng.random(targets.shape) < 0.2)
        listed += bool(false_alarms(targets, predicted))
    assert listed <= 3  # one in twenty, by Benjamini and Hochberg


@pytest.mark.parametrize('compute', [false_alarms, lonely_misses])
def test_without_errors_there_is_no_pair(compute):
    targets, _ = draw()
    assert compute(targets, targets, level=1) == []
    assert compute(targets[:, :1], ~targets[:, :1], level=1) == []


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
