"""Scores of invented images whose truth is known."""

import numpy as np

from ltml_mm.decisions.thresholds import sigmoid

CLASSES = 30
GROUPS = ['head'] * 10 + ['medium'] * 10 + ['tail'] * 10


def draw(rng, count, world):
    """Scores (N, K) and labels of a model that shifts classes at will."""
    shares, base, gain = world
    targets = rng.random((count, CLASSES)) < shares
    noise = rng.normal(0, 1.1, targets.shape)
    return sigmoid(base + noise + gain * targets), targets


def make_world(rng):
    shares = np.geomspace(0.25, 0.006, CLASSES)
    # Rare classes are shifted upwards, each by an amount of its own.
    shift = np.linspace(-1, 0.5, CLASSES) + rng.normal(0, 0.5, CLASSES)
    gain = rng.normal(3, 0.8, CLASSES).clip(0.8)
    return shares, np.log(shares) + shift, gain
