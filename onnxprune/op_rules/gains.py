"""How much operators that pass positions on scale them: what a score is multiplied by on the way back.

An operator without a row passes scores as they are; its factor, or its Lipschitz constant, is 1.
"""

from collections.abc import Callable
from math import prod

import numpy as np

from onnxprune.graph import Array
from onnxprune.op_rules.registry import Op

Gain = Callable[[Op], Array | None]
GAINS: dict[tuple[str, str], Gain] = {}
"""Functions that give an array that broadcasts to the node's output, without signs; None: as it is."""


def gain(*op_types: str, domain: str = "") -> Callable[[Gain], Gain]:
    """Register the decorated function for these operators."""

    def register(function: Gain) -> Gain:
        GAINS.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


def gain_of(op: Op) -> Array:
    """By what a node scales, at least in rank 0."""
    found = GAINS.get((op.domain, op.node.op_type))
    factor = found(op) if found is not None else None
    return np.ones(()) if factor is None else np.abs(factor.astype(np.float64))


@gain("BatchNormalization")
def batch_norm(op: Op) -> Array | None:
    """|γ| / √(var + ε), a number a channel."""
    scale, variance = op.array(1), op.array(4)
    if scale is None or variance is None:
        return None
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + op.attr("epsilon", 1e-5))
    return _by_channel(op, factor)


@gain("InstanceNormalization", "GroupNormalization")
def channel_norm(op: Op) -> Array | None:
    """|γ|: what is divided by has been measured on the input itself. Before opset 21 γ had a number a group."""
    scale = op.array(1)
    return None if scale is None or scale.size != op.shape()[1] else _by_channel(op, scale)


@gain("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(op: Op) -> Array | None:
    """|γ| on the last axes."""
    return op.array(1)


@gain("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_norm(op: Op) -> Array | None:
    """|γ| on the last axis."""
    return op.array(2)


@gain("Mul")
def multiplied(op: Op) -> Array | None:
    """By a constant; of two computed factors each counts as if the other were 1, as gates are at most."""
    return next((array for index in (0, 1) if (array := op.array(index)) is not None), None)


@gain("Div")
def divided(op: Op) -> Array | None:
    """By a constant."""
    array = op.array(1)
    return None if array is None else 1 / np.where(array == 0, 1, array).astype(np.float64)


@gain("Gemm")
def gemm(op: Op) -> Array | None:
    """Its factor α."""
    return np.asarray(op.attr("alpha", 1.0))


@gain("ConvTranspose")
def transposed_convolution(op: Op) -> Array | None:
    """With stride s only one in s outputs reads a tap."""
    return np.asarray(prod(op.shape()[2:]) / max(prod(op.out_shape()[2:]), 1))


@gain("ReduceSum")
def summed(op: Op) -> Array | None:
    """Each position counts in full, where a mean would share the score among them."""
    return np.asarray(prod(op.shape()) / max(prod(op.out_shape()), 1))


def _by_channel(op: Op, vector: Array) -> Array:
    return vector.reshape(-1, *[1] * (len(op.shape()) - 2))
