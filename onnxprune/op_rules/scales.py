"""Factors, one a channel or one for all: which operators apply one, and past which it can be moved."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, array_of

# fmt: off
ANY_SIGN = frozenset([
    "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "Identity", "Neg", "ReduceMean", "ReduceSum", "Reshape",
    "Squeeze", "Transpose", "Unsqueeze",
])
"""f(a x) = a f(x), channel by channel; a Concat has channels of other tensors too, whose factor is one."""
POSITIVE = frozenset([
    "Abs", "GlobalMaxPool", "LeakyRelu", "MaxPool", "PRelu", "ReduceMax", "ReduceMin", "Relu",
])
"""The same for a ≥ 0."""
# fmt: on


@dataclass(frozen=True, eq=False)
class Gate:
    """A node that multiplies input `index` by constant factors."""

    node: ir.Node
    index: int
    factors: Array

    @property
    def data(self) -> ir.Value:
        """What is multiplied."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


def gate(node: ir.Node) -> Gate | None:
    """The node as a gate, if it is a product (or quotient) of one computed tensor and a constant of real numbers."""
    if node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    fixed = [v is not None and v.is_initializer() and v.const_value is not None for v in node.inputs]
    if fixed not in ([False, True], [True, False]):
        return None
    index = fixed.index(False)
    factors = array_of(_given(node, 1 - index)).astype(np.float64)
    real = _given(node, 1 - index).const_value
    if real is None or not real.dtype.is_floating_point() or not np.isfinite(factors).all():
        return None
    if node.op_type == "Mul":
        return Gate(node, index, factors)
    return Gate(node, index, 1 / factors) if index == 0 and factors.all() else None


def neutral(node: ir.Node) -> int | None:
    """The input that a sum or product with a constant hands through as it is; None where it changes anything."""
    index = added(node)
    if index is not None and not array_of(_given(node, 1 - index)).any() and (node.op_type == "Add" or index == 0):
        return index
    one = gate(node)
    return one.index if one is not None and bool(np.all(one.factors == 1)) else None


def added(node: ir.Node) -> int | None:
    """The computed input of a sum (or difference) with a constant; None where the node is anything else."""
    fixed = [v is not None and v.is_initializer() and v.const_value is not None for v in node.inputs]
    summed = node.op_type in ("Add", "Sub") and node.domain in ("", "ai.onnx")
    return fixed.index(False) if summed and fixed in ([False, True], [True, False]) else None


def passes_scale(node: ir.Node, factors: Array) -> bool:
    """Whether the node gives the same when its input is multiplied by the factors instead of its output."""
    if node.domain not in ("", "ai.onnx") or any(v.name and v.uses() for v in node.outputs[1:]):
        return False
    if node.op_type == "PRelu":
        slope = node.inputs[1]
        return slope is not None and slope.is_initializer() and bool(np.all(factors >= 0))
    return node.op_type in ANY_SIGN or (node.op_type in POSITIVE and bool(np.all(factors >= 0)))


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
