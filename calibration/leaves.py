"""Dead leaves: opaque shapes that cover each other, the simplest pictures with the statistics of photographs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Planes = tuple[int, int, int]

_LARGEST = 0.6  # of the image, a radius
_STRETCH = 0.5  # deviation of the logarithm of √(length / breadth)
_RECTANGLE = 0.9  # half side of a rectangle where an ellipse has radius 1
_OUTSIDE = 0.1  # how far beyond the border centres may lie, in images
_SHADING = 0.3
_SHADED = _SHADING**2 / 2  # variance that shading adds, over an ellipse
_CLIP = 2.2  # no picture goes further from its mean: pixel values end


@dataclass(frozen=True)
class Leaves:
    """A family of pictures of zero mean; as defaults, what matched a photograph classifier best.

    `gain` is the standard deviation over all pictures, `contrast` the deviation of its logarithm from one picture to
    the next, `correlation` that of two channels of a colour; `shapes` are in a picture, of radius from `smallest` (1 is
    the square root of its area) with density r⁻³.
    """

    gain: float = 1.0
    correlation: float = 0.85
    smallest: float = 0.06
    shapes: int = 15
    contrast: float = 0.28


@dataclass(frozen=True)
class _Shapes:
    """Ellipses and rectangles, back to front; in pixels, each field of shape (shapes,) or, per axis, (2, shapes).

    Inside, the coordinates `along` · (x − centre x, y − centre y) and `across` · (…) are below one.
    """

    centre: Array
    along: Array
    across: Array
    half: Array
    ellipse: Array


def dead_leaves(leaves: Leaves, rng: np.random.Generator, planes: Planes) -> Array:
    """Draw one picture (channels, height, width), float32.

    Opaque ellipses and rectangles of any size, place and direction, each with a colour and a linear shading, painted
    back to front (Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001).
    """
    channels, height, width = planes
    shapes = _shapes(leaves, rng, height, width)
    top = _paint(shapes, height, width)
    slope = np.float32(_SHADING) * rng.standard_normal((2, leaves.shapes), np.float32)
    slope = slope[0] * shapes.along + slope[1] * shapes.across
    colours = np.float32((1 - _SHADED) ** 0.5) * _colours(leaves.correlation, rng, (channels, leaves.shapes + 1))
    # What lies behind all shapes is the last entry of each table: label -1.
    colours[:, :-1] -= (slope * shapes.centre).sum(0)
    across, down = np.append(slope, np.zeros((2, 1), np.float32), 1)
    shade = across[top] * np.arange(width, dtype=np.float32) + down[top] * np.arange(height, dtype=np.float32)[:, None]
    picture: Array = colours.take(top, 1, mode="wrap") + shade
    picture *= np.float32(leaves.gain * np.exp(leaves.contrast * rng.standard_normal()))
    np.clip(picture, -_CLIP, _CLIP, out=picture)
    return picture


def _shapes(leaves: Leaves, rng: np.random.Generator, height: int, width: int) -> _Shapes:
    count, steepest, flattest = leaves.shapes, leaves.smallest**-2, _LARGEST**-2
    radius = (height * width) ** 0.5 * (steepest + rng.random(count) * (flattest - steepest)) ** -0.5
    stretch, angle = np.exp(_STRETCH * rng.standard_normal(count)), np.pi * rng.random(count)
    cos, sin = np.cos(angle), np.sin(angle)
    length, breadth = radius * stretch, radius / stretch
    centre = rng.uniform(-_OUTSIDE, 1 + _OUTSIDE, (2, count)) * np.array(((width,), (height,)))
    ellipse = rng.random(count) < 0.5
    a, b = np.stack((cos, sin)) * length, np.stack((-sin, cos)) * breadth
    half = np.where(ellipse, np.hypot(a, b), _RECTANGLE * (np.abs(a) + np.abs(b)))
    along, across = np.stack((cos, sin)) / length, np.stack((-sin, cos)) / breadth
    single = np.float32
    return _Shapes(centre.astype(single), along.astype(single), across.astype(single), half.astype(single), ellipse)


def _paint(shapes: _Shapes, height: int, width: int) -> Array:
    """The number of the shape on top at each pixel, -1 where there is none."""
    top = np.full((height, width), -1)
    # A shape costs the pixels of its bounding box, not those of the picture.
    size = np.array(((width,), (height,)))
    first = np.clip(np.ceil(shapes.centre - shapes.half), 0, size).astype(int).T.tolist()
    stop = np.clip(np.floor(shapes.centre + shapes.half) + 1, 0, size).astype(int).T.tolist()
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    for at, ((left, upper), (right, lower)) in enumerate(zip(first, stop, strict=True)):
        if left >= right or upper >= lower:
            continue
        dx, dy = x[left:right] - shapes.centre[0, at], y[upper:lower] - shapes.centre[1, at]
        a = dx * shapes.along[0, at] + dy * shapes.along[1, at]
        b = dx * shapes.across[0, at] + dy * shapes.across[1, at]
        inside = a * a + b * b < 1 if shapes.ellipse[at] else np.maximum(np.abs(a), np.abs(b)) < _RECTANGLE
        np.copyto(top[upper:lower, left:right], at, where=inside)
    return top


def _colours(correlation: float, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    own, shared = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[1], np.float32)
    mixed: Array = np.float32(correlation**0.5) * shared + np.float32((1 - correlation) ** 0.5) * own
    return mixed
