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
    if linear.kind == "recurrent":
        return weight.reshape(linear.groups, -1, weight.shape[-1])
    matrix = weight.reshape(int(np.prod(weight.shape[: _leading(linear, weight.shape)])), -1)
    return (matrix if _rows_first(linear) else matrix.T)[None]


def from_matrix(linear: Linear, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_matrix`, for a weight of the given shape."""
    if linear.kind == "conv":
        return matrix.reshape(shape)
    if linear.kind == "conv_transpose":
        blocks = matrix.reshape(matrix.shape[0], shape[1], -1, *shape[2:])
        return _flipped(np.swapaxes(blocks, 1, 2).reshape(shape))
    if linear.kind == "recurrent":
        return matrix.reshape(shape)
    rows: Array = matrix[0]
    return rows if _rows_first(linear) else rows.T


def to_vector(linear: Linear, bias: Array) -> Array:
    """(groups · n,) what a layer's bias adds to each output; that of a recurrent layer has a second half."""
    return _own_part(linear, bias).reshape(-1)


def from_vector(linear: Linear, vector: Array, bias: Array) -> Array:
    """The inverse of `to_vector`: a bias like the given one."""
    changed = bias.astype(vector.dtype)
    part = _own_part(linear, changed)
    part[...] = vector.reshape(part.shape)
    return changed


def _own_part(linear: Linear, bias: Array) -> Array:
    return bias[:, : bias.shape[1] // 2] if linear.kind == "recurrent" else bias


def _leading(linear: Linear, shape: tuple[int, ...]) -> int:
    """How many axes of the weight are the matrix's first: an Einsum's weight may spread either side over several."""
    if len(shape) == 2:
        return 1
    wanted = (linear.outputs if _rows_first(linear) else linear.features).shape[1]
    return int(np.argmax(np.cumprod(shape) == wanted)) + 1


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
