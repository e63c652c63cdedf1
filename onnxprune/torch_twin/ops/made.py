"""Tensors that are made from numbers."""

import onnx_ir as ir
import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op
from onnxprune.torch_twin.tensors import TORCH, to_tensor


@op("ConstantOfShape", numbers=(0,))
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """One value everywhere, zero where none is given."""
    value = call.attr("value")
    fill = torch.zeros(1) if value is None else to_tensor(value)
    return fill.reshape(()).expand(integers(shape) or []).clone()


@op("Range", domain="com.microsoft", numbers=(0, 1, 2))
@op("Range", numbers=(0, 1, 2))
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor | None = None) -> Tensor:
    """Numbers in equal steps, of one where that is not told."""
    return torch.arange(start.item(), limit.item(), 1 if delta is None else delta.item(), dtype=start.dtype)


@op("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape
    kind = TORCH[ir.DataType(call.attr("dtype"))] if call.attr("dtype") else x.dtype
    shifted = torch.arange(columns) - torch.arange(rows)[:, None]
    return (shifted == call.attr("k", 0)).to(kind)
