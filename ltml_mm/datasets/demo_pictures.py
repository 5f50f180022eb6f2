"""Draws the pictures of the demo set.

Everything here is a function of its arguments and gives the same bytes on
every machine: random numbers are the raw output of PCG64, which NumPy keeps
stable, and arithmetic is on integers or on float operations that IEEE 754
rounds exactly (no sine, no exponential, no BLAS, no sum of floats).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

SIDE = 64
_CELLS = 3  # glyphs stand on a jittered grid of 3 x 3 places
_FINE = 2  # samples per pixel and axis, for smooth edges

# Base colours, BGR. Saturation and brightness vary, the hue family stays.
COLOURS = {
    'red': (40, 45, 215),
    'yellow': (40, 205, 225),
    'green': (55, 175, 50),
    'cyan': (215, 205, 40),
    'blue': (220, 80, 45),
    'pink': (200, 60, 220),
}


# Tells for coordinates from about -1 to 1, v downwards, what is inside.
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v < 0.8) & (2 * np.abs(u) < v + 1.1)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a = np.abs(u)
    lobes = (a - 0.48) * (a - 0.48) + (v + 0.35) * (v + 0.35) < 0.27
    return lobes | ((v > -0.35) & (a + 0.82 * v < 0.74))


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    bite = (u - 0.5) * (u - 0.5) + v * v < 0.6
    return (u * u + v * v < 1) & ~bite


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a = np.abs(u)
    head = (v < 0) & (a < v + 1)
    return head | ((v >= 0) & (v < 0.95) & (a < 0.32))


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return (np.minimum(a, b) < 0.3) & (np.maximum(a, b) < 0.95)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    square = u * u + v * v
    return (square < 1) & (square > 0.34)


def _bars(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a = np.abs(u)
    return (np.abs(v) < 0.9) & ((a < 0.18) | ((a > 0.5) & (a < 0.86)))


def _stroke(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.abs(u) < 1) & (np.abs(v) < 0.12)


SHAPES: dict[str, Shape] = {
    'ring': _ring,
    'disc': lambda u, v: u * u + v * v < 0.9,
    'square': lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.82,
    'triangle': _triangle,
    'cross': _cross,
    'heart': _heart,
    'moon': _moon,
    'bars': _bars,
    'arrow': _arrow,
    'hourglass': lambda u, v: (
        (np.abs(u) < np.abs(v) + 0.1)
        & (np.maximum(np.abs(u), np.abs(v)) < 0.9)
    ),
}


class Draws:
    """Random numbers from the raw output of PCG64.

    Args:
        *key: Non-negative integers that choose the stream.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, size: int) -> np.ndarray:
        """Returns numbers from 0 to below 1, float64 (size,)."""
        return (self._bits.random_raw(size) >> np.uint64(11)) * 2.0**-53

    def one(self, low: float, high: float) -> float:
        """Returns one number from ``low`` to below ``high``."""
        return low + (high - low) * float(self.uniform(1)[0])

    def bytes(self, *shape: int) -> np.ndarray:
        """Returns numbers from 0 to 255, int64 of the shape."""
        size = int(np.prod(shape))
        raw = self._bits.random_raw(-(-size // 8)).astype('<u8')
        return raw.view(np.uint8)[:size].reshape(shape).astype(np.int64)

    def order(self, size: int) -> np.ndarray:
        """Returns a permutation of 0 .. size - 1, int64 (size,)."""
        return np.argsort(self.uniform(size), kind='stable')


def draw_picture(
    glyphs: Sequence[tuple[str, str]],
    others: Sequence[tuple[str, str]],
    draws: Draws,
) -> np.ndarray:
    """Draws coloured shapes on a textured, cluttered background.

    Args:
        glyphs: Colour and shape of every glyph to show, at most 7.
        others: Colours and shapes from which up to 2 more are drawn.
        draws: Gives place, size, tilt, shade, texture and clutter.

    Returns:
        np.ndarray: uint8 BGR of shape (64, 64, 3).
    """
    canvas = _background(draws)
    for _ in range(6):
        _draw(canvas, _stroke, draws.bytes(3), draws)
    extra = [
        others[int(draws.one(0, len(others)))]
        for _ in range(int(draws.one(0, 3)))
    ]
    places = draws.order(_CELLS * _CELLS)
    # What is drawn later may cover what was drawn before: mix the two kinds.
    shown = [*glyphs, *extra]
    for place, index in zip(places, draws.order(len(shown)), strict=False):
        colour, shape = shown[index]
        _draw(canvas, SHAPES[shape], _shade(colour, draws), draws, int(place))
    canvas += draws.bytes(SIDE, SIDE, 3) // 13 - 9
    return canvas.clip(0, 255).astype(np.uint8)


def _background(draws: Draws) -> np.ndarray:
    """Adds up coarse and fine coloured noise, int64 (64, 64, 3)."""
    total = np.zeros((SIDE, SIDE, 3), np.int64)
    for cells, share in ((2, 6), (8, 6), (16, 4)):
        weights = _interpolation(cells)
        grid = draws.bytes(cells + 1, cells + 1, 3).transpose(2, 0, 1)
        noise = weights @ grid @ weights.T  # integers: exact on any machine
        step = SIDE // cells
        total += share * noise.transpose(1, 2, 0) // (step * step)
    return total // 16


@cache
def _interpolation(cells: int) -> np.ndarray:
    """Weights of linear interpolation, int64 (64, cells + 1)."""
    step = SIDE // cells
    weights = np.zeros((SIDE, cells + 1), np.int64)
    for pixel in range(SIDE):
        cell, rest = divmod(pixel, step)
        weights[pixel, cell] = step - rest
        weights[pixel, cell + 1] = rest
    return weights


def _shade(colour: str, draws: Draws) -> np.ndarray:
    """Varies a colour's channels, brightness and saturation, int64 (3,)."""
    shade = np.array(COLOURS[colour]) + draws.bytes(3) // 6 - 21
    light = int(draws.one(170, 276))
    grey = int(draws.one(0, 70))  # of 256
    shade = (shade * (256 - grey) + 128 * grey) // 256
    return (shade * light // 256).clip(0, 255)


def _draw(
    canvas: np.ndarray,
    shape: Shape,
    colour: np.ndarray,
    draws: Draws,
    place: int | None = None,
) -> None:
    """Draws a glyph at its place, or a stroke anywhere, into the canvas."""
    cell = SIDE / _CELLS
    if place is None:
        y, x, t = draws.one(0, SIDE), draws.one(0, SIDE), draws.one(-1, 1)
    else:
        y = cell * (place // _CELLS + draws.one(0.35, 0.65))
        x = cell * (place % _CELLS + draws.one(0.35, 0.65))
        t = draws.one(-0.13, 0.13)
    radius = draws.one(7.5, 11.5)
    # cos and sin of the tilt, 15 or 90 degrees at most either way, from t,
    # the tangent of its half.
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    reach = int(radius * 1.5) + 1
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    window = canvas[top : int(y) + reach, left : int(x) + reach]
    height, width = window.shape[:2]
    v = (_centres(height) + (top - y))[:, None] / radius
    u = (_centres(width) + (left - x))[None, :] / radius
    inside = shape(cos * u + sin * v, cos * v - sin * u)
    cover = inside.reshape(height, _FINE, width, _FINE).sum((1, 3))
    cover = cover[..., None]
    full = _FINE * _FINE
    # The background's texture shines through a little.
    paint = (colour * 7 + window) // 8
    window[...] = (window * (full - cover) + paint * cover) // full


def _centres(pixels: int) -> np.ndarray:
    """Coordinates of the samples of a row of pixels, float64."""
    return (np.arange(pixels * _FINE) + 0.5) / _FINE
