"""Rows of a layer's regression: what a layer reads (X) and writes (Y) at chosen output positions.

The positions run over the batch and the output's spatial axes, row-major; padded borders are among them.
"""

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.geometry import Geometry, geometry
from onnxprune.graph import Array
from onnxprune.labels import Shape
from onnxprune.op_rules.facts import Linear

Rows = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]
Index = tuple[Any, ...]
CONVOLUTIONS = ("conv", "conv_transpose")


def spread(total: int, wanted: int, seed: int) -> Positions:
    """About `wanted` of `total` positions, evenly spread, each shifted inside its own stretch; all where few.

    A fixed grid would meet the same columns of every image.
    """
    if wanted >= total:
        return np.arange(total)
    bounds = np.arange(wanted + 1) * total // wanted  # whole numbers: stretches that share none give no row twice
    return bounds[:-1] + (np.random.default_rng(seed).random(wanted) * np.diff(bounds)).astype(np.intp)


def position_count(linear: Linear, input_shape: Shape) -> int:
    """How many rows a run has whose input has this shape."""
    if linear.kind in CONVOLUTIONS:
        return input_shape[0] * prod(geometry(linear, input_shape[2:]).outside)
    return prod(input_shape[:-1])


def written(linear: Linear, y: Array, where: Positions) -> Rows:
    """The rows (k, outputs) of the output at these positions."""
    if linear.kind in CONVOLUTIONS:
        batch, *spatial = np.unravel_index(where, (y.shape[0], *y.shape[2:]))
        index: Index = (batch, slice(None), *spatial)
        return np.asarray(y[index], np.float32)
    return np.asarray(y.reshape(-1, y.shape[-1])[where], np.float32)


def read(linear: Linear, x: Array, where: Positions) -> Rows:
    """The rows (groups, k, F) of the input that make the output at these positions."""
    if linear.kind in CONVOLUTIONS:
        taken = _patches(linear, x, where)
        return np.moveaxis(taken.reshape(len(where), linear.groups, -1), 1, 0)
    return np.asarray(x.reshape(-1, x.shape[-1])[where], np.float32)[None]


def _patches(linear: Linear, x: Array, where: Positions) -> Rows:
    """(k, C · taps): the window under each position."""
    shape = geometry(linear, x.shape[2:])
    if linear.kind == "conv_transpose":
        x, shape = _stuffed(x, shape.strides), shape.as_convolution()
    batch, *spatial = np.unravel_index(where, (x.shape[0], *shape.outside))
    padded = _padded(x, shape)
    offsets = [range(0, span, d) for span, d in zip(shape.spans, shape.dilations, strict=True)]
    taken = np.empty((len(where), x.shape[1], *map(len, offsets)), np.float32)
    for tap in np.ndindex(taken.shape[2:]):  # one tap of all windows at a time: twice as fast as window by window
        at = (i * s + o[t] for i, s, o, t in zip(spatial, shape.strides, offsets, tap, strict=True))
        taken[..., *tap] = padded[batch, :, *at]
    return taken.reshape(len(where), -1)


def _stuffed(x: Array, strides: list[int]) -> Array:
    """The input with stride − 1 zeros between its positions."""
    wide = np.zeros((*x.shape[:2], *((d - 1) * s + 1 for d, s in zip(x.shape[2:], strides, strict=True))), x.dtype)
    between: Index = (..., *(slice(None, None, s) for s in strides))
    wide[between] = x
    return wide


def _padded(x: Array, shape: Geometry) -> Array:
    """Zeros before and after, so that each spatial axis has the size that the windows need; too much is cut."""
    needed = [(o - 1) * s + w for o, s, w in zip(shape.outside, shape.strides, shape.spans, strict=True)]
    inside: Index = (..., *(slice(max(0, -b), None) for b in shape.begin))
    cut = x[inside]
    widths = [
        (max(0, b), max(0, n - max(0, b) - d)) for b, n, d in zip(shape.begin, needed, cut.shape[2:], strict=True)
    ]
    if not np.any(widths):
        return cut
    whole: Index = (..., *(slice(0, n) for n in needed))
    return np.pad(cut, [(0, 0), (0, 0), *widths])[whole]
