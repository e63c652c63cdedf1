"""Tensors that are made from numbers."""

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op
from onnxprune.torch_twin.tensors import to_tensor


@op("ConstantOfShape", numbers=(0,))
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """One value everywhere, zero where none is given."""
    value = call.attr("value")
    fill = torch.zeros(1) if value is None else to_tensor(value)
    return fill.reshape(()).expand(integers(shape) or []).clone()


@op("Range", numbers=(0, 1, 2))
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers in equal steps."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@op("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape
    ones = torch.ones(rows, columns, dtype=x.dtype).triu(call.attr("k", 0))
    return ones.tril(call.attr("k", 0))
