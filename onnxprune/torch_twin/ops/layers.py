"""Layers and pools: products with weights, and what slides over space."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TURNED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
LARGEST: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pads_of(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padding before and behind each spatial axis, `auto_pad` resolved."""
    rank = len(kernel)
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = call.attr("pads") if mode == "NOTSET" else None
        pads = pads or [0] * 2 * rank
        return list(pads[:rank]), list(pads[rank:])
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begin.append(small if mode == "SAME_UPPER" else total - small)
        end.append(total - begin[-1])
    return begin, end


def padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Padding as torch's Pad wants it: the last axis first."""
    sides = [side for pair in reversed(list(zip(begin, end, strict=True))) for side in pair]
    return F.pad(x, sides, value=value) if any(sides) else x


@op("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of one to three spatial axes."""
    rank = weight.ndim - 2
    begin, end = pads_of(call, x.shape[2:], weight.shape[2:])
    if begin != end:
        x, begin = padded(x, begin, end), [0] * rank
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    return CONV[rank](x, weight, bias, strides, begin, dilations, call.attr("group", 1))


@op("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The whole result is cut at its borders by the padding, `output_shape` and `auto_pad` resolved."""
    rank = weight.ndim - 2
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    extra = call.attr("output_padding") or [0] * rank
    whole = TURNED[rank](x, weight, bias, strides, 0, 0, call.attr("group", 1), dilations)
    full = [n + e for n, e in zip(whole.shape[2:], extra, strict=True)]
    begin, end = _borders(call, x.shape[2:], full, strides, rank)
    for axis, (low, high, e) in enumerate(zip(begin, end, extra, strict=True)):
        if e > high:
            whole = F.pad(whole, [0, 0] * (rank - 1 - axis) + [0, e - high], value=0.0)
            whole = _with_bias(whole, bias, axis + 2, e - high)
        whole = whole.narrow(axis + 2, low, full[axis] - low - high)
    return whole


def _with_bias(whole: Tensor, bias: Tensor | None, axis: int, width: int) -> Tensor:
    """Positions beyond what the windows reach hold the bias."""
    if bias is None:
        return whole
    edge = bias.reshape(-1, *(1 for _ in range(whole.ndim - 2)))
    kept, beyond = whole.split([whole.shape[axis] - width, width], axis)
    return torch.cat([kept, beyond + edge], axis)


def _borders(
    call: Call, sizes: Sequence[int], full: Sequence[int], strides: Sequence[int], rank: int
) -> tuple[list[int], list[int]]:
    """How much goes at either end of each axis."""
    wanted, mode = call.attr("output_shape"), call.attr("auto_pad", "NOTSET")
    if wanted:
        wanted = wanted[-rank:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    else:
        pads = (call.attr("pads") if mode == "NOTSET" else None) or [0] * 2 * rank
        return list(pads[:rank]), list(pads[rank:])
    total = [max(n - w, 0) for n, w in zip(full, wanted, strict=True)]
    half = [t // 2 for t in total]
    rest = [t - h for t, h in zip(total, half, strict=True)]
    return (half, rest) if mode != "SAME_LOWER" else (rest, half)


@op("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """α A B + β C, either side turned."""
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    if c is not None and alpha == beta == 1.0 and c.ndim == 1:
        return torch.addmm(c, a, b)
    product = a @ b if alpha == 1.0 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1.0 else beta * c)


@op("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Of the last two axes."""
    return torch.matmul(a, b)


@op("FusedMatMul", domain="com.microsoft")
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """α A B, either side turned."""
    a = a.transpose(-1, -2) if call.attr("transA", 0) else a
    b = b.transpose(-1, -2) if call.attr("transB", 0) else b
    return call.attr("alpha", 1.0) * torch.matmul(a, b)


@op("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    """By its equation."""
    return torch.einsum(call.attr("equation"), *operands)


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
    places = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    far = padded(x, begin, end, float("-inf"))
    found, inside = LARGEST[rank](far, kernel, strides, 0, dilations, return_indices=True)
    known = padded(places.to(torch.float64), begin, end, -1.0).flatten(2).gather(2, inside.flatten(2))
    return found, known.reshape(found.shape).to(torch.int64)


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
    strides = call.attr("strides") or [1] * rank
    windows = MEAN[rank](padded(x.abs() ** power, begin, end), kernel, strides)
    return (windows * torch.Size(kernel).numel()) ** (1 / power)


@op("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.flatten(2).amax(2).reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))
