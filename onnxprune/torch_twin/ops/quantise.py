"""Numbers to quanta and back. Rounding has the gradient of the identity inside its range, as long as quanta are read
by an operator that knows of it: they carry the numbers that they were rounded from, with their history.
"""

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op
from onnxprune.torch_twin.tensors import TORCH

MICROSOFT = "com.microsoft"
WIDE = torch.int32
SHORT = {ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15), ir.DataType.INT2: (-2, 1), ir.DataType.UINT2: (0, 3)}
"""The ends of types that torch holds in bytes."""


class _Round(torch.autograd.Function):  # type: ignore[misc]  # torch is not checked
    """Rounding to even, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The rounded number."""
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient as it comes."""
        return gradient


def rounded(x: Tensor) -> Tensor:
    """Rounded to even, with the gradient of the identity."""
    found: Tensor = _Round.apply(x)
    return found


def quanta(exact: Tensor, kind: torch.dtype) -> Tensor:
    """Whole numbers of a type, which carry `exact`, the same as numbers that have a gradient."""
    found = exact.detach().to(kind)
    if exact.requires_grad:
        found.exact = exact
    return found


def exact_of(x: Tensor, kind: torch.dtype) -> Tensor:
    """Quanta as numbers of a type with a gradient, where they carry it."""
    exact: Tensor = getattr(x, "exact", x)
    return exact.to(kind)


def along(call: Call, scale: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """Scales of one axis, laid along it; of blocks, repeated."""
    if scale.numel() == 1:
        return scale.reshape(())
    axis = call.attr("axis", axis) % x.ndim
    if (block := call.attr("block_size", 0)) > 0:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return scale.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


@op("DequantizeLinear", domain=MICROSOFT)
@op("DequantizeLinear")
def dequantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x − zero) · scale."""
    if x.is_floating_point():
        return x.to(scale.dtype) * along(call, scale, x)
    wide = exact_of(x, scale.dtype) if hasattr(x, "exact") else x.to(torch.int64)
    wide = wide if zero is None else wide - along(call, zero.to(torch.int64), x)
    found = wide.to(scale.dtype) * along(call, scale, x)
    wanted = call.attr("output_dtype", 0)
    return found.to(TORCH[wanted]) if wanted else found


@op("QuantizeLinear", domain=MICROSOFT)
@op("QuantizeLinear")
def quantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Rounded to even, cut off at the ends of the type of `zero`."""
    told = ir.DataType(call.attr("output_dtype", 0) or (len(call.types) > 2 and call.types[2]) or ir.DataType.UINT8)
    return requantised(x, along(call, scale, x), zero if zero is None else along(call, zero, x), told)


def requantised(x: Tensor, scale: Tensor | None, zero: Tensor | None, told: ir.DataType | None = None) -> Tensor:
    """Quanta of a type that the graph tells, or of that of `zero`; without a scale, of numbers that are scaled."""
    kind = zero.dtype if told is None and zero is not None else TORCH[told or ir.DataType.UINT8]
    if kind.is_floating_point:
        raise NotImplementedError("its quanta are no whole numbers")
    whole = rounded(x if scale is None else x / scale)
    ends = torch.iinfo(kind)
    low, high = SHORT.get(told, (ends.min, ends.max)) if told else (ends.min, ends.max)
    return quanta((whole if zero is None else whole + zero.to(torch.int64)).clamp(low, high), kind)


@op("DynamicQuantizeLinear")
def dynamic_quantise(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The range includes zero."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    if float(scale.detach()) == 0:
        return torch.zeros_like(x, dtype=torch.uint8), scale, torch.zeros_like(scale, dtype=torch.uint8)
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    return quanta((rounded(x / scale) + zero).clamp(0, 255), torch.uint8), scale, quanta(zero, torch.uint8)
