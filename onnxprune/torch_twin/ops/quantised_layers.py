"""Layers of quanta, and of packed weights: computed in double precision, which holds the sums of their products."""

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layers import conv
from onnxprune.torch_twin.ops.quantise import WIDE, dynamic_quantise, exact_of, quanta, requantised
from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"
DOUBLE = torch.float64


def less(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Quanta less what stands for zero, which may differ along one axis."""
    wide = exact_of(x, DOUBLE)
    if zero is None:
        return wide
    shift = exact_of(zero, DOUBLE)
    return wide - (_laid(shift, x, axis) if shift.ndim == 1 else shift)


def _laid(values: Tensor, x: Tensor, axis: int) -> Tensor:
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])


@op("MatMulInteger")
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Sums of products of quanta."""
    return quanta(less(a, a_zero, -2) @ less(b, b_zero, -1), WIDE)


@op("ConvInteger")
def conv_integer(
    call: Call, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None
) -> Tensor:
    """A convolution of quanta."""
    return quanta(conv(call, less(x, x_zero, 1), less(weight, weight_zero, 0)), WIDE)


@op("QLinearConv")
def quantised_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """A convolution of quanta, brought to others."""
    found: Tensor = conv(
        call, less(x, x_zero, 1), less(weight, weight_zero, 0), None if bias is None else bias.double()
    )
    # In single precision, as onnxruntime has it: other roundings are often another quantum.
    return requantised(found.to(scale.dtype) * _laid(x_scale * weight_scale / scale, found, 1), None, zero)


@op("QLinearMatMul")
def quantised_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
) -> Tensor:
    """A product of quanta, brought to others."""
    found = less(a, a_zero, -2) @ less(b, b_zero, -1)
    ratio = _laid(a_scale, found, -2) * _laid(b_scale, found, -1) / scale
    return requantised(found.to(scale.dtype) * ratio, None, zero)


@op("QGemm", domain=MICROSOFT)
def quantised_gemm(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
) -> Tensor:
    """A product of quanta and a bias, brought to others where it is told to which."""
    turned = bool(call.attr("transB", 0))
    left, right = less(a, a_zero, -1), less(b, b_zero, 0 if turned else 1)
    left, right = left.T if call.attr("transA", 0) else left, right.T if turned else right
    found = left @ right if c is None else left @ right + c.double() / call.attr("alpha", 1.0)
    ratio = call.attr("alpha", 1.0) * a_scale * b_scale
    found = found.to(a_scale.dtype)
    return found * ratio if scale is None else requantised(found * (ratio / scale), None, zero)


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    call: Call,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A product of quanta as numbers, and a bias."""
    found = (less(a, a_zero, -2) @ less(b, b_zero, -1)).to(a_scale.dtype)
    found = found * a_scale * b_scale
    return found if bias is None else found + bias


@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantise_matmul(
    call: Call, a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """As the last, of numbers that become quanta here."""
    whole, scale, zero = dynamic_quantise(call, a)
    found: Tensor = matmul_integer_to_float(call, whole, b, scale, b_scale, zero, b_zero, bias)
    return found


@op("MatMulNBits", domain=MICROSOFT)
def matmul_of_bits(
    call: Call,
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    places: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A product with a weight of which a byte holds several quanta, in blocks along the inputs."""
    bits, block, inputs, outputs = (call.attr(name) for name in ("bits", "block_size", "K", "N"))
    if places is not None or call.attr("weight_prepacked", 0):
        raise NotImplementedError("its weight is stored in another order")
    blocks = -(-inputs // block)
    whole = _unpacked(packed.reshape(outputs * blocks, -1), bits).reshape(outputs, blocks, -1)[..., :block]
    if zeros is None:
        middle = torch.tensor(2.0 ** (bits - 1), device=x.device)
    elif zeros.dtype == torch.uint8:
        middle = _unpacked(zeros.reshape(outputs, -1), bits)[:, :blocks, None]
    else:
        middle = zeros.reshape(outputs, blocks, 1)
    weight = (whole.to(x.dtype) - middle.to(x.dtype)) * scales.reshape(outputs, blocks, 1)
    found = x @ weight.flatten(1)[:, :inputs].T
    return found if bias is None else found + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """(rows, numbers) of the bytes of rows, low bits first."""
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    return ((packed.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(1)
