"""Operators that work position by position."""

from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import OPS, Call, op
from onnxprune.torch_twin.tensors import TORCH

MICROSOFT = "com.microsoft"
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


@op("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """The slope is broadcast from the right."""
    return torch.where(x < 0, x * slope, x)


@op("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    """To the type that an attribute names."""
    return x.to(TORCH[ir.DataType(call.attr("to"))])


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


@op("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """`alpha` below zero."""
    return F.leaky_relu(x, call.attr("alpha", 0.01))


@op("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """`alpha` (eˣ − 1) below zero."""
    return F.elu(x, call.attr("alpha", 1.0))


@op("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """`alpha` (e^(x/alpha) − 1) below zero."""
    return F.celu(x, call.attr("alpha", 1.0))


@op("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """A scaled Elu."""
    alpha, gamma = call.attr("alpha", 1.6732632423543772), call.attr("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@op("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """A line between 0 and 1."""
    return (x * call.attr("alpha", 0.2) + call.attr("beta", 0.5)).clamp(0, 1)


@op("Softplus")
def softplus(call: Call, x: Tensor) -> Tensor:
    """log(1 + eˣ)."""
    return F.softplus(x, threshold=30)


@op("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Nothing up to `alpha`."""
    return torch.where(x > call.attr("alpha", 1.0), x, torch.zeros_like(x))


@op("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Nothing near zero, and nearer to it elsewhere."""
    bias, lambd = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@op("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Of the signs asked for."""
    high, low = call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    return torch.isinf(x) & (((x > 0) & bool(high)) | ((x < 0) & bool(low)))


@op("Gelu")
@op("Gelu", domain=MICROSOFT)
def gelu(call: Call, x: Tensor) -> Tensor:
    """Exact, or by tanh."""
    return F.gelu(x, approximate=call.attr("approximate", "none"))


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Exact, behind a bias."""
    return F.gelu(x + bias)


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """By tanh, behind a bias where there is one."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """x σ(αx)."""
    return x * torch.sigmoid(call.attr("alpha", 1.702) * x)


@op("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """x σ(αx)."""
    return x * torch.sigmoid(call.attr("alpha", 1.0) * x)


@op("BitShift")
def bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    """To the left or to the right."""
    wide, count = x.to(torch.int64), by.to(torch.int64)
    return (wide << count if call.attr("direction") == "LEFT" else wide >> count).to(x.dtype)


def numpy_type(dtype: np.dtype[Any]) -> torch.dtype:
    """torch's name of a numpy type."""
    return TORCH[ir.DataType.from_numpy(dtype)]
