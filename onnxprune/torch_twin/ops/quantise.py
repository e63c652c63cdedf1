"""Numbers to quanta and back, and layers of quanta; rounding has the gradient of the identity inside its range."""

import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

WIDE = torch.int32


def _along(call: Call, scale: Tensor, x: Tensor) -> Tensor:
    """Scales of one axis, laid along it; of blocks, repeated."""
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    axis = call.attr("axis", 1) % x.ndim
    if (block := call.attr("block_size", 0)) > 0:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return scale.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


@op("DequantizeLinear", domain="com.microsoft")
@op("DequantizeLinear")
def dequantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x − zero) · scale."""
    wide = x.to(WIDE) if zero is None else x.to(WIDE) - _along(call, zero.to(WIDE), x)
    return wide.to(scale.dtype) * _along(call, scale, x)


@op("QuantizeLinear", domain="com.microsoft")
@op("QuantizeLinear")
def quantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Rounded to even, cut off at the ends of the type of `zero`."""
    kind = torch.uint8 if zero is None else zero.dtype
    ends = torch.iinfo(kind)
    wide = torch.round(x / _along(call, scale, x))
    wide = wide if zero is None else wide + _along(call, zero.to(WIDE), x)
    return wide.clamp(ends.min, ends.max).to(kind)


@op("DynamicQuantizeLinear")
def dynamic_quantise(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The range includes zero."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((0 - low) / scale).clamp(0, 255) if float(scale) > 0 else torch.zeros_like(scale)
    quanta = torch.round(x / scale) + zero if float(scale) > 0 else torch.zeros_like(x)
    return quanta.clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _less(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Quanta less what stands for zero, in double precision, which holds their products."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    shift = zero.to(torch.float64)
    return wide - (shift if shift.ndim == 0 else shift.reshape([-1 if a == axis else 1 for a in range(x.ndim)]))


@op("MatMulInteger")
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Sums of products of quanta."""
    return (_less(a, a_zero, a.ndim - 2) @ _less(b, b_zero, b.ndim - 1)).to(WIDE)


@op("ConvInteger")
def conv_integer(
    call: Call, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None
) -> Tensor:
    """A convolution of quanta."""
    from onnxprune.torch_twin.ops.layers import conv

    found: Tensor = conv(call, _less(x, x_zero, 1), _less(weight, weight_zero, 0))
    return found.round().to(WIDE)
