"""Operators that work position by position."""

from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import OPS, Call, op
from onnxprune.torch_twin.tensors import TORCH

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
"""Functions of one tensor that need no attribute."""
PAIRED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
FOLDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}
"""Functions of two tensors, or of any number of them."""


def _register() -> None:
    for name, plain in PLAIN.items():
        OPS["", name] = lambda call, x, plain=plain: plain(x)
    for name, paired in PAIRED.items():
        OPS["", name] = lambda call, x, y, paired=paired: paired(x, y)
    for name, each in FOLDED.items():
        OPS["", name] = lambda call, *values, each=each: fold(each, values)


_register()


@op("Identity")
def identity(call: Call, x: Any) -> Any:
    """Tensors and sequences."""
    return x


@op("Dropout")
def dropout(call: Call, x: Tensor, *settings: Tensor) -> tuple[Tensor, Tensor]:
    """As in inference, and nothing is masked."""
    return x, torch.ones_like(x, dtype=torch.bool)


@op("Mean")
def mean(call: Call, *values: Tensor) -> Tensor:
    """Of tensors, position by position."""
    return fold(torch.add, values) / len(values)


@op("Div")
def divide(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Whole numbers are cut towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@op("Mod")
def modulo(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """With the sign of the divisor, or of the dividend with `fmod`."""
    return torch.fmod(x, y) if call.attr("fmod", 0) else torch.remainder(x, y)


@op("Pow")
def power(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """The type is that of the base."""
    return torch.pow(x, y.to(x.dtype) if x.is_floating_point() else y).to(x.dtype)


@op("Where")
def where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of two tensors."""
    return torch.where(condition, x, y)


@op("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    """To the type that an attribute names; quanta stay what they were rounded from."""
    kind = TORCH[ir.DataType(call.attr("to"))]
    return getattr(x, "exact", x).to(kind) if kind.is_floating_point else x.to(kind)


@op("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    """To the type of another tensor."""
    return x.to(like.dtype)


@op("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are attributes before opset 11."""
    if call.opset < 11:
        return x.clamp(call.attr("min"), call.attr("max")) if call.given else x
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@op("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Of the signs asked for."""
    high, low = call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    return torch.isinf(x) & (((x > 0) & bool(high)) | ((x < 0) & bool(low)))


@op("BitShift")
def bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    """To the left or to the right."""
    wide, count = x.to(torch.int64), by.to(torch.int64)
    return (wide << count if call.attr("direction") == "LEFT" else wide >> count).to(x.dtype)


@op("BitCast")
def bit_cast(call: Call, x: Tensor) -> Tensor:
    """The same bits as another type."""
    return x.view(TORCH[ir.DataType(call.attr("to"))])


@op("GatedAdd", domain="com.microsoft")
def gated_add(call: Call, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """One tensor, and a share of another."""
    return x + y * gate
