"""Operators of onnxruntime's own on quanta, by what they do to the numbers that these stand for."""

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.activations import leaky_relu
from onnxprune.torch_twin.ops.pools import average_pool
from onnxprune.torch_twin.ops.quantise import exact_of, requantised
from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"


def _numbers(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    whole = exact_of(x, scale.dtype)
    return (whole if zero is None else whole - zero.to(scale.dtype)) * scale


@op("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantised_pair(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    scale: Tensor,
    zero: Tensor | None = None,
) -> Tensor:
    """A sum or a product."""
    join = torch.add if call.op_type == "QLinearAdd" else torch.mul
    return requantised(join(_numbers(a, a_scale, a_zero), _numbers(b, b_scale, b_zero)), scale, zero)


@op("QLinearLeakyRelu", "QLinearSigmoid", domain=MICROSOFT)
def quantised_activation(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    """A LeakyRelu or a Sigmoid."""
    numbers = _numbers(x, x_scale, x_zero)
    found = leaky_relu(call, numbers) if call.op_type == "QLinearLeakyRelu" else torch.sigmoid(numbers)
    return requantised(found, scale, zero)


@op("QLinearSoftmax", domain=MICROSOFT)
def quantised_softmax(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    """Along one axis, or, as before opset 13, along all from one on."""
    numbers, axis = _numbers(x, x_scale, x_zero), call.attr("axis", -1)
    found = torch.softmax(numbers if call.attr("opset", 13) >= 13 else numbers.flatten(axis % x.ndim), axis)
    return requantised(found.reshape(x.shape), scale, zero)


@op("QLinearConcat", domain=MICROSOFT)
def quantised_concat(call: Call, scale: Tensor, zero: Tensor, *triples: Tensor) -> Tensor:
    """Each of the inputs has a scale and a zero of its own."""
    parts = [_numbers(*triples[i : i + 3]) for i in range(0, len(triples), 3)]
    return requantised(torch.cat(parts, call.attr("axis")), scale, zero)


@op("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def quantised_average_pool(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    """Of windows, or of all of space; channels may come last."""
    last = bool(call.attr("channels_last", 0))
    numbers = _numbers(x, x_scale, x_zero)
    numbers = numbers.movedim(-1, 1) if last else numbers
    whole = call.op_type == "QLinearGlobalAveragePool"
    found = numbers.flatten(2).mean(2).reshape(*numbers.shape[:2], *(1 for _ in numbers.shape[2:])) if whole else None
    found = average_pool(call, numbers) if found is None else found
    return requantised(found.movedim(1, -1) if last else found, scale, zero)


@op("QLinearWhere", domain=MICROSOFT)
def quantised_where(
    call: Call,
    condition: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
) -> Tensor:
    """Of two tensors."""
    return requantised(torch.where(condition, _numbers(x, x_scale, x_zero), _numbers(y, y_scale, y_zero)), scale, zero)
