"""Average precision against scikit-learn and its invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from ltml_mm.evaluation import average_precision


def by_scikit_learn(scores, targets):
    return [
        average_precision_score(targets[:, k], scores[:, k])
        if targets[:, k].any()
        else np.nan
        for k in range(scores.shape[1])
    ]


@pytest.mark.parametrize('levels', [1, 2, 5, 100, 2**31])
@pytest.mark.parametrize('share', [0.01, 0.3, 0.99])
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_equals_scikit_learn(levels, share, dtype):
    rng = np.random.default_rng(levels % 1000)
    scores = rng.integers(-levels, levels, (300, 70), endpoint=True)
    scores = (scores / levels).astype(dtype)
    targets = rng.random((300, 70)) < share
    np.testing.assert_allclose(
        average_precision(scores, targets),
        by_scikit_learn(scores, targets),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize('order', ['C', 'F'])
def test_special_columns(order):
    scores = np.zeros((6, 5), np.float32, order=order)
    scores[:, 1:] = np.arange(6)[:, None]
    targets = np.zeros((6, 5), np.uint8, order=order)
    targets[:2, 0] = 1  # all scores equal: the share of positives
    targets[3, 1] = 1  # one positive on rank 3
    targets[:, 2] = 1  # all positive
    targets[5, 4] = 1  # one positive on rank 1
    before = scores.copy(), targets.copy()
    ap = average_precision(scores, targets)
    np.testing.assert_allclose(ap, [1 / 3, 1 / 3, 1, np.nan, 1])
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(targets, before[1])


def test_infinities_are_ranked():
    scores = np.array([np.inf, np.inf, 0, -np.inf])[:, None]
    targets = np.array([1, 0, 0, 1])[:, None]
    ap = average_precision(scores, targets)
    assert ap[0] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_nan_is_refused_by_image_and_class():
    scores = np.random.default_rng(0).random((50, 40))
    scores[17, 35] = scores[30, 35] = np.nan
    with pytest.raises(ValueError, match='image 17 for class 35 is NaN'):
        average_precision(scores, np.zeros((50, 40)))


@pytest.mark.parametrize('shape', [(3,), (3, 1), (4, 2)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match='images, classes'):
        average_precision(np.zeros((3, 2)), np.zeros(shape))


def test_no_image_gives_nan():
    ap = average_precision(np.zeros((0, 3)), np.zeros((0, 3)))
    assert np.isnan(ap).all()


columns = st.lists(
    st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=40
).filter(lambda rows: any(positive for _, positive in rows))


@settings(max_examples=100, deadline=None)
@given(columns, st.randoms(use_true_random=False))
def test_properties(rows, random):
    scores = np.array([[s] for s, _ in rows], np.float32)
    targets = np.array([[t] for _, t in rows])
    ap = average_precision(scores, targets)[0]
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = average_precision(scores[order], targets[order])[0]
    assert shuffled == pytest.approx(ap)
    assert average_precision(np.exp(scores) * 3 + 1, targets)[0] == ap
    assert targets.mean() / 2 <= ap <= 1
