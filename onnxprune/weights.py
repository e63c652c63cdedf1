"""The weight of a layer as matrices (groups, n, F), one row an output, and back."""

import numpy as np
import onnx_ir as ir

from onnxprune.constants import constant_array
from onnxprune.graph import Array, sole_reader
from onnxprune.op_rules.facts import Linear


def weight_of(model: ir.Model, linear: Linear) -> Array:
    """The weight of a layer as real numbers; where it is kept in quanta, what those stand for."""
    array = constant_array(model, linear.weight)
    return array if linear.decode is None else linear.decode(array)


def to_matrix(linear: Linear, weight: Array) -> Array:
    """(groups, n, F): the columns run over (input channel, kernel tap) of the group, as `features` of the layer do.

    A transposed convolution's kernel is flipped: it is a convolution of the input with zeros put between.
    """
    groups = linear.groups
    if linear.kind == "conv":
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    if linear.kind == "conv_transpose":
        blocks = _flipped(weight).reshape(groups, -1, *weight.shape[1:])
        return np.swapaxes(blocks, 1, 2).reshape(groups, weight.shape[1], -1)
    return (weight if _rows_first(linear) else weight.T)[None]


def from_matrix(linear: Linear, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_matrix`, for a weight of the given shape."""
    if linear.kind == "conv":
        return matrix.reshape(shape)
    if linear.kind == "conv_transpose":
        blocks = matrix.reshape(matrix.shape[0], shape[1], -1, *shape[2:])
        return _flipped(np.swapaxes(blocks, 1, 2).reshape(shape))
    rows: Array = matrix[0]
    return rows if _rows_first(linear) else rows.T


def _rows_first(linear: Linear) -> bool:
    flipped = linear.node.attributes.get("transB")
    return linear.kind == "left_matmul" or (linear.kind == "gemm" and flipped is not None and bool(flipped.as_int()))


def _flipped(kernel: Array) -> Array:
    return np.flip(kernel, tuple(range(2, kernel.ndim)))


def ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """An integer-list attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else [int(i) for i in attribute.as_ints()]


def bias_behind(matmul: ir.Node) -> ir.Value | None:
    """The constant vector that the only reader of a MatMul adds to it, one number an output column."""
    add = sole_reader(matmul.outputs[0])
    weight = matmul.inputs[1]
    columns = weight.shape[-1] if weight is not None and weight.shape is not None else None
    if add is None or add.op_type != "Add":
        return None
    other = next((v for v in add.inputs if v is not matmul.outputs[0]), None)
    if other is None or other.const_value is None or len(other.uses()) != 1:
        return None
    shape = tuple(other.const_value.shape)
    return other if shape == (columns,) else None
