"""Where a position of a resized axis comes from, and how much it takes of its neighbours."""

from collections.abc import Callable

import numpy as np

from onnxprune.graph import Array


def _half(y: Array, scale: Array) -> Array:
    return np.asarray((y + np.float32(0.5)) / scale - np.float32(0.5))


def _symmetric(y: Array, scale: Array, n: int, m: int) -> Array:
    shift = np.float32(n / 2) * (1 - np.float32(m) / (scale * np.float32(n)))
    return np.asarray(shift + _half(y, scale))


def _cropped(y: Array, n: int, m: int, begin: Array, end: Array) -> Array:
    if m == 1:
        return np.asarray(y + np.float32(0.5) * (begin + end) * np.float32(n - 1))
    return np.asarray(begin * np.float32(n - 1) + y * (end - begin) * np.float32(n - 1) / np.float32(m - 1))


PLACES: dict[str, Callable[..., Array]] = {
    "half_pixel": lambda y, scale, n, m, begin, end: _half(y, scale),
    "half_pixel_symmetric": lambda y, scale, n, m, begin, end: _symmetric(y, scale, n, m),
    "pytorch_half_pixel": lambda y, scale, n, m, begin, end: _half(y, scale) if m > 1 else y * 0,
    "align_corners": lambda y, scale, n, m, begin, end: y * np.float32(n - 1) / np.float32(max(m - 1, 1)),
    "asymmetric": lambda y, scale, n, m, begin, end: y / scale,
    "tf_crop_and_resize": lambda y, scale, n, m, begin, end: _cropped(y, n, m, begin, end),
}
"""Where positions y of a result of size m come from, in an axis of size n, or in its part from `begin` to `end`."""
ROUNDED: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def triangle(distance: Array, steepness: float) -> Array:
    """The weight of a neighbour in linear interpolation."""
    return np.asarray(np.maximum(1 - np.abs(distance), 0))


def cubic(distance: Array, steepness: float) -> Array:
    """The weight of a neighbour in cubic interpolation."""
    t, a = np.abs(distance), steepness
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
