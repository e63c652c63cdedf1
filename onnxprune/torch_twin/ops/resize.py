"""Resize and Upsample: by weights of positions, axis by axis, as ONNX tells where a position comes from."""

from collections.abc import Callable
from math import floor

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op

Place = Callable[[float, float, int, int], float]
PLACES: dict[str, Place] = {
    "half_pixel": lambda y, scale, n, m: (y + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda y, scale, n, m: (n / 2) * (1 - m / (n * scale)) + (y + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda y, scale, n, m: (y + 0.5) / scale - 0.5 if m > 1 else 0.0,
    "align_corners": lambda y, scale, n, m: y * (n - 1) / (m - 1) if m > 1 else 0.0,
    "asymmetric": lambda y, scale, n, m: y / scale,
}
"""Where position y of a result of size m comes from, in an axis of size n."""
ROUNDED: dict[str, Callable[[float], float]] = {
    "round_prefer_floor": lambda x: -floor(-x + 0.5),
    "round_prefer_ceil": lambda x: floor(x + 0.5),
    "floor": floor,
    "ceil": lambda x: -floor(-x),
}


@op("Resize", numbers=(1, 2, 3))
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Nearest, linear and cubic; at opset 10 scales are the second input."""
    if call.opset < 11:
        return _resized(call, x, _scales(roi), None, "asymmetric")
    if call.attr("coordinate_transformation_mode") == "tf_crop_and_resize" or call.attr("antialias", 0):
        raise NotImplementedError("Resize that crops, or smooths where it shrinks")
    given = integers(sizes) if sizes is not None and sizes.numel() else None
    return _resized(
        call, x, None if given else _scales(scales), given, call.attr("coordinate_transformation_mode", "half_pixel")
    )


@op("Upsample", numbers=(1,))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Nearest or linear."""
    return _resized(call, x, call.attr("scales") or _scales(scales), None, "asymmetric")


def _scales(scales: Tensor | None) -> list[float]:
    return [] if scales is None else [float(scale) for scale in scales.tolist()]


def _resized(call: Call, x: Tensor, scales: list[float] | None, sizes: list[int] | None, where: str) -> Tensor:
    axes = [axis % x.ndim for axis in call.attr("axes") or range(x.ndim)]
    for place, axis in enumerate(axes):
        n = x.shape[axis]
        m = sizes[place] if sizes else floor(n * (scales or [])[place])
        scale = m / n if sizes else (scales or [])[place]
        if m != n or scale != 1:
            table = _weights(call, n, m, scale, PLACES[where]).to(x.device, x.dtype)
            x = torch.movedim(torch.tensordot(x, table, dims=([axis], [1])), -1, axis)
    return x


def _weights(call: Call, n: int, m: int, scale: float, place: Place) -> Tensor:
    """(m, n) how much each position of the result takes of each position there is."""
    table = torch.zeros(m, n, dtype=torch.float64)
    for y in range(m):
        at = place(float(y), scale, n, m)
        for position, weight in _taken(call, at, n):
            table[y, min(max(position, 0), n - 1)] += weight
    return table


def _taken(call: Call, at: float, n: int) -> list[tuple[int, float]]:
    mode = call.attr("mode", "nearest")
    if mode == "nearest":
        default = "round_prefer_floor" if call.op_type == "Resize" and call.opset >= 11 else "floor"
        return [(int(ROUNDED[call.attr("nearest_mode", default)](at)), 1.0)]
    low = floor(at)
    part = at - low
    if mode == "linear":
        return [(low, 1 - part), (low + 1, part)]
    found = [(low + k, _cubic(part - k, call.attr("cubic_coeff_a", -0.75))) for k in (-1, 0, 1, 2)]
    if call.attr("exclude_outside", 0):
        found = [(p, w if 0 <= p < n else 0.0) for p, w in found]
        total = sum(w for _, w in found)
        found = [(p, w / total) for p, w in found]
    return found


def _cubic(t: float, a: float) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0
