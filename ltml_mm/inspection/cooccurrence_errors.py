"""Errors that another class in the picture explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom


@dataclass(frozen=True)
class PairErrors:
    """Errors of one class beside another and without it, pair by pair.

    Attributes:
        neighbour: The class beside, int64 (P,).
        subject: The class that is wrongly predicted or missed, int64 (P,).
        images: Images in which the error could happen beside the neighbour,
            int64 (P,).
        errors: Those of them in which it did.
        other_images: Images in which it could happen without the neighbour.
        other_errors: Those of them in which it did.
        p_value: Of Fisher's exact test, one-sided, against the hypothesis
            that the neighbour makes no difference; adjusted for all pairs
            of classes by Benjamini and Hochberg, float64 (P,).
    """

    neighbour: np.ndarray
    subject: np.ndarray
    images: np.ndarray
    errors: np.ndarray
    other_images: np.ndarray
    other_errors: np.ndarray
    p_value: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """Share of errors beside the neighbour."""
        return self.errors / np.maximum(self.images, 1)

    @property
    def baseline(self) -> np.ndarray:
        """Share of errors without the neighbour."""
        return self.other_errors / np.maximum(self.other_images, 1)

    @property
    def excess(self) -> np.ndarray:
        """Errors beyond those that the baseline would give."""
        return self.errors - self.images * self.baseline

    def order(self, level: float = 0.05) -> np.ndarray:
        """Sorts the pairs by excess, those that chance explains left out."""
        kept = np.flatnonzero((self.p_value <= level) & (self.excess > 0))
        return kept[np.argsort(-self.excess[kept], kind='stable')]


def false_alarms(targets: np.ndarray, predicted: np.ndarray) -> PairErrors:
    r"""Finds which present class makes which absent one fire.

    Of the images without class a, those that show class p and those that do
    not are compared:

    .. math::
        P(\hat y_a = 1 \mid y_p = 1, y_a = 0) \quad\text{against}\quad
        P(\hat y_a = 1 \mid y_p = 0, y_a = 0)

    Args:
        targets: True labels, bool (N, K).
        predicted: Predicted labels, bool (N, K).

    Returns:
        PairErrors: The pairs with at least one false alarm beside the
        neighbour p.
    """
    return _compare(targets, ~targets, predicted & ~targets, beside=True)


def lonely_misses(targets: np.ndarray, predicted: np.ndarray) -> PairErrors:
    r"""Finds which class is missed where its companion is absent.

    Of the images with class a, those without class p and those with it are
    compared:

    .. math::
        P(\hat y_a = 0 \mid y_p = 0, y_a = 1) \quad\text{against}\quad
        P(\hat y_a = 0 \mid y_p = 1, y_a = 1)

    Args:
        targets: True labels, bool (N, K).
        predicted: Predicted labels, bool (N, K).

    Returns:
        PairErrors: The pairs of classes that meet in the set, with at least
        one miss without the neighbour p. ``images`` are those without p.
    """
    return _compare(targets, targets, targets & ~predicted, beside=False)


def _compare(
    targets: np.ndarray, trials: np.ndarray, errors: np.ndarray, beside: bool
) -> PairErrors:
    """Counts trials and errors of each pair, beside p and without it."""
    num_classes = targets.shape[1]
    # Sparse: of 10,000 classes, 100 million pairs hardly any occur.
    present = csr_array(targets.astype(np.int64)).T.tocsr()
    errors_with = (present @ csr_array(errors.astype(np.int64))).tocsr()
    together = (present @ present.T).tocsr()
    seen = errors_with if beside else together
    p, a = (index.astype(np.int64) for index in seen.nonzero())
    p, a = p[p != a], a[p != a]

    errors_beside = np.asarray(errors_with[p, a]).ravel()
    meeting = np.asarray(together[p, a]).ravel()
    trials_beside = targets.sum(0)[p] - meeting if beside else meeting
    trials_without = trials.sum(0)[a] - trials_beside
    errors_without = errors.sum(0)[a] - errors_beside
    first = (trials_beside, errors_beside)
    second = (trials_without, errors_without)
    if not beside:
        first, second = second, first
    kept = (first[1] > 0) & (second[0] > 0)
    n1, k1, n0, k0 = (values[kept] for values in (*first, *second))
    chance = hypergeom.sf(k1 - 1, n0 + n1, k0 + k1, n1)
    return PairErrors(
        neighbour=p[kept],
        subject=a[kept],
        images=n1,
        errors=k1,
        other_images=n0,
        other_errors=k0,
        p_value=_adjusted(chance, num_classes * (num_classes - 1)),
    )


def _adjusted(p_values: np.ndarray, tests: int) -> np.ndarray:
    """Adjusts p-values for a number of tests, the others being 1."""
    if not p_values.size:
        return p_values
    adjusted = false_discovery_control(p_values) * tests / p_values.size
    return np.minimum(adjusted, 1)
