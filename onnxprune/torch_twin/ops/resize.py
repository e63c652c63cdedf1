"""Resize and Upsample: each position of a result is a weighed sum of a few there are, axis by axis."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.graph import Array
from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.ops.places import PLACES, ROUNDED, cubic, triangle
from onnxprune.torch_twin.registry import Call, op

SPATIAL = {3: "linear", 4: "bilinear", 5: "trilinear"}
"""torch's name of linear interpolation by the number of axes."""


@dataclass(frozen=True)
class Axis:
    """How one axis of `before` positions becomes one of `after`; `part` is what of it a crop takes."""

    before: int
    after: int
    scale: float
    part: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class How:
    """What the attributes say of all axes."""

    mode: str
    where: str
    rounding: str = "floor"
    steepness: float = -0.75
    exclude: bool = False
    smooth: bool = False


@op("Resize", numbers=(1, 2, 3))
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Nearest, linear and cubic; at opset 10 scales are the second input."""
    if call.opset < 11:
        return _resized(x, _scaled(x, range(x.ndim), _floats(roi)), How(call.attr("mode", "nearest"), "asymmetric"))
    axes = [axis % x.ndim for axis in call.attr("axes") or range(x.ndim)]
    how = How(
        call.attr("mode", "nearest"),
        call.attr("coordinate_transformation_mode", "half_pixel"),
        call.attr("nearest_mode", "round_prefer_floor"),
        call.attr("cubic_coeff_a", -0.75),
        bool(call.attr("exclude_outside", 0)),
        bool(call.attr("antialias", 0)),
    )
    wanted = integers(sizes) if sizes is not None and sizes.numel() else None
    changes = _scaled(x, axes, _floats(scales)) if wanted is None else _sized(call, x, axes, wanted)
    if how.where == "tf_crop_and_resize":
        return _cropped(x, changes, how, _floats(roi), call.attr("extrapolation_value", 0.0))
    return _resized(x, changes, how)


@op("Upsample", numbers=(1,))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Nearest or linear."""
    given = call.attr("scales") or _floats(scales)
    return _resized(x, _scaled(x, range(x.ndim), given), How(call.attr("mode", "nearest"), "asymmetric"))


def _floats(values: Tensor | None) -> list[float]:
    return [] if values is None else [float(value) for value in values.tolist()]


def _scaled(x: Tensor, axes: range | list[int], scales: list[float]) -> dict[int, Axis]:
    sizes = [x.shape[axis] for axis in axes]
    return {a: Axis(n, floor(n * s), s) for a, n, s in zip(axes, sizes, scales, strict=True)}


def _sized(call: Call, x: Tensor, axes: list[int], sizes: list[int]) -> dict[int, Axis]:
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    each = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        each = [min(each) if policy == "not_larger" else max(each)] * len(each)
        sizes = [floor(x.shape[axis] * each[0] + 0.5) for axis in axes]
    return {a: Axis(x.shape[a], size, s) for a, size, s in zip(axes, sizes, each, strict=True)}


def _cropped(x: Tensor, changes: dict[int, Axis], how: How, roi: list[float], beyond: float) -> Tensor:
    """Of a part of each axis; what lies outside of it all is one value."""
    count = len(changes)
    parts = zip(roi[:count], roi[count:], strict=True)
    changes = {a: Axis(c.before, c.after, c.scale, part) for (a, c), part in zip(changes.items(), parts, strict=True)}
    found = _resized(x, changes, how)
    for axis, change in changes.items():
        at = _at(change, how)
        outside = torch.from_numpy((at < 0) | (at > change.before - 1)).to(x.device)
        found = found.masked_fill(outside.reshape([-1 if a == axis else 1 for a in range(x.ndim)]), beyond)
    return found


def _resized(x: Tensor, changes: dict[int, Axis], how: How) -> Tensor:
    plain = Axis(1, 1, 1.0).part
    open_ = {a: c for a, c in changes.items() if c.after != c.before or c.scale != 1 or c.part != plain}
    quick = _quick(x, open_, how)
    if quick is not None:
        return quick
    for axis, change in open_.items():
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        terms = [
            x.index_select(axis, places.to(x.device)) * weights.to(x.device, x.dtype).reshape(shape)
            for places, weights in taps(change, how)
        ]
        x = sum(terms[1:], terms[0])
    return x


def _quick(x: Tensor, changes: dict[int, Axis], how: How) -> Tensor | None:
    """By torch's own interpolation, where it is the same."""
    if not changes or x.ndim not in SPATIAL or min(changes) < 2:
        return None
    sizes = [changes[axis].after if axis in changes else x.shape[axis] for axis in range(2, x.ndim)]
    if how.mode == "nearest":
        here = [(taps(c, how)[0][0], torch.arange(c.after) * c.before // c.after) for c in changes.values()]
        return F.interpolate(x, sizes, mode="nearest") if all(torch.equal(*both) for both in here) else None
    corners = how.where == "align_corners"
    halves = how.where in ("half_pixel", "pytorch_half_pixel") and all(c.after > 1 for c in changes.values())
    exact = all(c.scale == c.after / c.before for c in changes.values())
    if how.mode == "linear" and exact and not how.smooth and (corners or halves):
        return F.interpolate(x, sizes, mode=SPATIAL[x.ndim], align_corners=corners)
    return None


def _at(change: Axis, how: How) -> Array:
    """Where each position comes from, in single precision, as onnxruntime has it."""
    y, one = np.arange(change.after, dtype=np.float32), np.float32
    begin, end = (one(side) for side in change.part)
    return PLACES[how.where](y, one(change.scale), change.before, change.after, begin, end).astype(np.float32)


@lru_cache(maxsize=512)
def taps(change: Axis, how: How) -> list[tuple[Tensor, Tensor]]:
    """Positions, and the weight of each, whose sum is the result."""
    at = _at(change, how)
    if how.mode == "nearest":
        places, weights = ROUNDED[how.rounding](at)[None], np.ones((1, change.after))
    else:
        wide = max(1.0, 1 / change.scale) if how.smooth else 1.0
        reach = (1 if how.mode == "linear" else 2) * wide
        steps = np.arange(-ceil(reach), ceil(reach) + 1 if how.smooth else ceil(reach)) + (0 if how.smooth else 1)
        places = np.floor(at)[None] + steps[:, None]
        kernel = triangle if how.mode == "linear" else cubic
        weights = kernel((places - at) / wide, how.steepness)
        if how.exclude or how.smooth:
            inside = (places >= 0) & (places < change.before)
            weights = np.where(inside, weights, 0.0) if how.exclude else weights
            weights = weights / weights.sum(0)
    places = places.clip(0, change.before - 1).astype(np.int64)
    return [(torch.from_numpy(p), torch.from_numpy(w)) for p, w in zip(places, weights, strict=True) if np.any(w)]
