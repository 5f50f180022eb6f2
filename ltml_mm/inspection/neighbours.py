"""The most alike pictures of two sets, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from torch import Tensor

#: What the features of one set may take; wider ones are projected.
FEATURE_BYTES = 256 * 2**20
#: The rows of similarities that are in memory at once.
BLOCK = 2048
#: Of the 64 bits of a hash, what re-encoding and resizing may change; and
#: the least cosine of two copies of one picture.
SAME_BITS, SAME_COSINE = 6, 0.9

_ONES = np.array([bin(byte).count('1') for byte in range(256)], np.uint8)


class Features:
    """Unit vectors and hashes of the pictures of a set.

    Vectors that would take more than :data:`FEATURE_BYTES` are projected to
    fewer random directions, which keeps their cosines nearly (Johnson and
    Lindenstrauss, 1984).

    Args:
        size: The number of pictures that will be added.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._vectors: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []

    def add(
        self, vectors: np.ndarray | None, images: Iterable[Tensor]
    ) -> None:
        """Adds a batch: unit vectors (B, C), or None, and pictures."""
        self._hashes += [difference_hash(image) for image in images]
        if vectors is not None:
            self._vectors.append(self.project(vectors))

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Takes vectors to the directions that are kept, float16 (B, D)."""
        width = vectors.shape[1]
        kept = max(16, FEATURE_BYTES // (2 * max(self.size, 1)))
        if width > kept:
            rng = np.random.default_rng(0)
            vectors = vectors @ rng.standard_normal((width, kept), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12
        return vectors.astype(np.float16)

    @property
    def vectors(self) -> np.ndarray:
        """float16 of shape (N, D); D is 0 where there are none."""
        if not self._vectors:
            return np.zeros((len(self._hashes), 0), np.float16)
        self._vectors = [np.concatenate(self._vectors)]
        return self._vectors[0]

    @property
    def hashes(self) -> np.ndarray:
        """uint8 of shape (N, 8)."""
        return np.reshape(self._hashes, (-1, 8)).astype(np.uint8)

    def cosines(self, vectors: np.ndarray) -> np.ndarray:
        """Compares all pictures with projected vectors, float32 (N, B)."""
        # Exact: products of two float16 are multiples of 2**-48, and so are
        # their sums, whatever their order, which differs by CPU and batch.
        others = vectors.astype(np.float64).T
        blocks = range(0, max(len(self.vectors), 1), BLOCK)
        parts = [self.vectors[i : i + BLOCK] for i in blocks]
        products = (part.astype(np.float64) @ others for part in parts)
        return np.concatenate([p.astype(np.float32) for p in products])


class Matches:
    """For each picture of a set, the most alike one of another set.

    Likeness is the cosine of the features less the share of other bits.

    Args:
        own: The N pictures.

    Attributes:
        index: Its place in the other set, -1 before any was seen, (N,).
        cosine: Of the features, 1 where there are none, float32 (N,).
        bits: Of 64, those in which the hashes differ, (N,).
    """

    def __init__(self, own: Features) -> None:
        self.own = own
        self.index = np.full(own.size, -1)
        self.cosine = np.full(own.size, -2, np.float32)
        self.bits = np.full(own.size, 64)

    @property
    def likeness(self) -> np.ndarray:
        """What ranks the pairs, (N,)."""
        return self.cosine - self.bits / 64

    @property
    def same(self) -> np.ndarray:
        """Whether two pictures count as copies of one, bool (N,)."""
        return (self.bits <= SAME_BITS) & (self.cosine >= SAME_COSINE)

    def add(
        self,
        vectors: np.ndarray | None,
        images: list[Tensor],
        indices: np.ndarray,
    ) -> None:
        """Compares a batch of the other set; takes what is more alike.

        A picture (C, H, W) and its mirror image count as one for the hashes.
        ``vectors`` are unit vectors, float32 (B, C), None where there are
        none; ``indices`` their places in their set, (B,).
        """
        plain = np.stack([difference_hash(image) for image in images])
        mirrored = np.stack([difference_hash(i.flip(2)) for i in images])
        hashes = self.own.hashes
        bits = np.minimum(
            differing(hashes, plain), differing(hashes, mirrored)
        )
        cosine = np.ones(bits.shape, np.float32)
        if vectors is not None:
            cosine = self.own.cosines(self.own.project(vectors))
        best = (cosine - bits / 64).argmax(1)
        near = np.arange(len(best)), best
        better = cosine[near] - bits[near] / 64 > self.likeness
        for name, values in (
            ('index', indices[best]),
            ('cosine', cosine[near]),
            ('bits', bits[near]),
        ):
            getattr(self, name)[better] = values[better]


def difference_hash(image: Tensor) -> np.ndarray:
    """Hashes a picture (C, H, W): copies of it have nearly the same bits.

    Each bit says whether a pixel of the picture, made grey and reduced to
    9 x 8, is lighter than its left neighbour: dHash (Krawetz, *Kind of like
    that*, 2013). 64 bits, uint8 (8,).
    """
    grey = image.float().mean(0).cpu().numpy()
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Counts the bits in which hashes differ, uint8 (N, B)."""
    total = np.zeros((len(first), len(second)), np.uint8)
    for byte in range(8):
        total += _ONES[first[:, None, byte] ^ second[None, :, byte]]
    return total
