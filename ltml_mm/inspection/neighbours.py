"""The most alike pictures of two sets, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

#: What the features of one set may take; wider ones are projected.
FEATURE_BYTES = 256 * 2**20
#: The rows of similarities that are in memory at once.
BLOCK = 4096
#: Of the 64 bits of a hash: what re-encoding and resizing leave equal.
SAME_BITS = 6
#: The least cosine of two copies of one picture.
SAME_COSINE = 0.9

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
        self, vectors: np.ndarray | None, images: Iterable[torch.Tensor]
    ) -> None:
        """Adds a batch.

        Args:
            vectors: Unit vectors, float32 (B, C); None where there are none.
            images: The pictures, uint8 (C, H, W) each.
        """
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
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
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

    def nearest(self, vector: np.ndarray, count: int) -> list[int]:
        """Lists the pictures of the largest cosines with one, best first."""
        cosines = np.concatenate(
            [
                self.vectors[start : start + BLOCK].astype(np.float32) @ vector
                for start in range(0, len(self.vectors), BLOCK)
            ]
        )
        return np.argsort(-cosines, kind='stable')[:count].tolist()


@dataclass
class Matches:
    """For each of N pictures, the most alike one of another set.

    Attributes:
        index: Its place in the other set, -1 before any was seen, (N,).
        cosine: Of the features, float32 (N,).
        bits: Of 64, those in which the hashes differ, (N,).
    """

    index: np.ndarray
    cosine: np.ndarray
    bits: np.ndarray

    @classmethod
    def none_yet(cls, size: int) -> Matches:
        """Starts a search."""
        index = np.full(size, -1)
        return cls(index, np.full(size, -2, np.float32), np.full(size, 64))

    @property
    def likeness(self) -> np.ndarray:
        """What ranks them: the cosine less the share of other bits."""
        return self.cosine - self.bits / 64

    @property
    def same(self) -> np.ndarray:
        """Whether two pictures count as copies of one, bool (N,)."""
        return (self.bits <= SAME_BITS) & (self.cosine >= SAME_COSINE)


def match(
    own: Features,
    vectors: np.ndarray | None,
    images: Iterable[torch.Tensor],
    indices: np.ndarray,
    best: Matches,
) -> None:
    """Compares all pictures of a set with a batch of others, in place.

    A picture and its mirror image count as one for the hashes.

    Args:
        own: The N pictures.
        vectors: Unit vectors of the others, float32 (B, C).
        images: The others, uint8 (C, H, W) each.
        indices: Their places in their set, (B,).
        best: What was found before; takes what is more alike.
    """
    images = list(images)
    plain = np.stack([difference_hash(image) for image in images])
    mirrored = np.stack([difference_hash(image.flip(2)) for image in images])
    others = None if vectors is None else own.project(vectors)
    hashes, features = own.hashes, own.vectors
    for start in range(0, own.size, BLOCK):
        part = slice(start, start + BLOCK)
        bits = np.minimum(
            _distances(hashes[part], plain), _distances(hashes[part], mirrored)
        )
        # Without features the hashes alone decide.
        cosine = np.ones(bits.shape, np.float32)
        if others is not None:
            rows = features[part].astype(np.float32)
            cosine = rows @ others.astype(np.float32).T
        column = (cosine - bits / 64).argmax(1)
        row = np.arange(len(column))
        near = row, column
        found = Matches(indices[column], cosine[near], bits[near])
        better = found.likeness > best.likeness[part]
        for name in ('index', 'cosine', 'bits'):
            getattr(best, name)[part][better] = getattr(found, name)[better]


def difference_hash(image: torch.Tensor) -> np.ndarray:
    """Hashes a picture so that copies of it have nearly the same bits.

    Each bit says whether a pixel of the picture, made grey and reduced to
    9 x 8, is lighter than its left neighbour: dHash (Krawetz, *Kind of like
    that*, 2013).

    Args:
        image: Of shape (C, H, W), any dtype.

    Returns:
        np.ndarray: 64 bits, uint8 (8,).
    """
    grey = image.float().mean(0).cpu().numpy()
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Counts the bits in which hashes differ, int64 (N, B)."""
    total = np.zeros((len(first), len(second)), np.int64)
    for byte in range(8):
        total += _ONES[first[:, None, byte] ^ second[None, :, byte]]
    return total
