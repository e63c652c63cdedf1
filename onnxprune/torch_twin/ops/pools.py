"""Pools: windows that slide over space, and what puts a pool's results back."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.ops.layers import CONV, padded, pads_of
from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op

LARGEST: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@op("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Padding counts as less than anything; where indices are asked for, they count over the whole input."""
    kernel, rank = call.attr("kernel_shape"), len(call.attr("kernel_shape"))
    begin, end = pads_of(call, x.shape[2:], kernel)
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    if call.attr("ceil_mode", 0):
        end = _reached(x.shape[2:], kernel, strides, dilations, begin, end)
    if call.outputs < 2:
        x = padded(x, begin, end, float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min)
        return torch.as_tensor(LARGEST[rank](x, kernel, strides, 0, dilations))
    places = _places(x, bool(call.attr("storage_order", 0)))
    far = padded(x, begin, end, float("-inf"))
    found, inside = LARGEST[rank](far, kernel, strides, 0, dilations, return_indices=True)
    known = padded(places.to(torch.float64), begin, end, -1.0).flatten(2).gather(2, inside.flatten(2))
    return found, known.reshape(found.shape).to(torch.int64)


def _places(x: Tensor, columns: bool) -> Tensor:
    """The number of each position, row by row, or column by column."""
    sizes, space = x.shape[2:], range(2, x.ndim)
    own = torch.arange(sizes.numel(), device=x.device)
    own = own.reshape(sizes[::-1]).permute(*reversed(range(len(space)))) if columns else own.reshape(sizes)
    first = torch.arange(x.shape[0] * x.shape[1], device=x.device) * sizes.numel()
    return first.reshape(*x.shape[:2], *(1 for _ in space)) + own


def _reached(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
) -> list[int]:
    """The padding behind each axis that lets a last, partial window lie inside."""
    found = []
    for n, k, s, d, b, e in zip(sizes, kernel, strides, dilations, begin, end, strict=True):
        span = (k - 1) * d + 1
        count = -(-(n + b + e - span) // s) + 1
        count -= int((count - 1) * s >= n + b)
        found.append(max((count - 1) * s + span - n - b, 0))
    return found


@op("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Padding counts or not; a last, partial window counts what of it lies inside."""
    kernel = call.attr("kernel_shape")
    rank = len(kernel)
    begin, end = pads_of(call, x.shape[2:], kernel)
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if call.attr("count_include_pad", 0):
        x, counted = padded(x, begin, end), padded(counted, begin, end, 1.0)
        begin, end = [0] * rank, [0] * rank
    if call.attr("ceil_mode", 0):
        end = _reached(x.shape[2:], kernel, strides, dilations, begin, end)
    if any(d > 1 for d in dilations):
        return _dilated_mean(padded(x, begin, end), padded(counted, begin, end), kernel, strides, dilations)
    short = [max(k - n - b - e, 0) for k, n, b, e in zip(kernel, x.shape[2:], begin, end, strict=True)]
    end = [e + s for e, s in zip(end, short, strict=True)]  # the runtime gives a result where no window fits
    x, counted = padded(x, begin, end), padded(counted, begin, end)
    return MEAN[rank](x, kernel, strides) / MEAN[rank](counted, kernel, strides)


def _dilated_mean(
    x: Tensor, counted: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    rank, channels = len(kernel), x.shape[1]
    ones = torch.ones((channels, 1, *kernel), dtype=x.dtype, device=x.device)
    total = CONV[rank](x, ones, None, strides, 0, dilations, channels)
    return total / CONV[rank](counted, ones[:1], None, strides, 0, dilations)


@op("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    kernel, power = call.attr("kernel_shape"), call.attr("p", 2)
    rank = len(kernel)
    begin, end = pads_of(call, x.shape[2:], kernel)
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    if call.attr("ceil_mode", 0):
        end = _reached(x.shape[2:], kernel, strides, dilations, begin, end)
    ones = torch.ones((x.shape[1], 1, *kernel), dtype=x.dtype, device=x.device)
    total = CONV[rank](padded(x.abs() ** power, begin, end), ones, None, strides, 0, dilations, x.shape[1])
    return total ** (1 / power)


@op("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.flatten(2).amax(2).reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))


@op("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm over all spatial axes."""
    return torch.linalg.vector_norm(x, call.attr("p", 2), tuple(range(2, x.ndim)), keepdim=True)


@op("MaxUnpool", numbers=(2,))
def max_unpool(call: Call, x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
    """Each number at its place, which counts over the whole result; zeros elsewhere."""
    kernel, rank = call.attr("kernel_shape"), len(call.attr("kernel_shape"))
    strides, pads = call.attr("strides") or [1] * rank, call.attr("pads") or [0] * 2 * rank
    sizes = [
        (n - 1) * s - pads[a] - pads[rank + a] + k
        for a, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    whole = integers(shape) if shape is not None else [*x.shape[:2], *sizes]
    flat = x.new_zeros(torch.Size(whole).numel())
    return flat.index_put((places.reshape(-1),), x.reshape(-1)).reshape(whole)
