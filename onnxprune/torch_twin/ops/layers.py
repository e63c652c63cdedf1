"""Layers: products with weights, and the padding of what slides over space."""

from collections.abc import Callable, Sequence

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
    extra = list(call.attr("output_padding") or [0] * rank)
    whole = TURNED[rank](x, weight, bias, strides, 0, 0, call.attr("group", 1), dilations)
    for axis, size in enumerate((call.attr("output_shape") or [])[-rank:]):
        extra[axis] = max(extra[axis], size - whole.shape[2 + axis])
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
    """α A B, either side turned, or with its first axis behind the batch axes."""
    a = a.movedim(0, -2) if call.attr("transBatchA", 0) else a
    b = b.movedim(0, -2) if call.attr("transBatchB", 0) else b
    a = a.transpose(-1, -2) if call.attr("transA", 0) else a
    b = b.transpose(-1, -2) if call.attr("transB", 0) else b
    return call.attr("alpha", 1.0) * torch.matmul(a, b)


@op("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    """By its equation."""
    return torch.einsum(call.attr("equation"), *operands)
