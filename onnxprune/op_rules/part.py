"""What an operator that takes statistics over channels computes over some of them: the oracle's reference.

`--open normalised` lets channels go from an axis that is normalised or averaged; what stays is then normalised over
what stays. The wide graph must do the same: here are the operators again, over the positions of a mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, add_constant, array_of


@dataclass(frozen=True, eq=False)
class Part:
    """A node, its first input's shape, and which positions of that count (0 or 1, of the input's rank)."""

    graph: ir.Graph
    node: ir.Node
    opset: int
    shape: tuple[int, ...]
    mask: Array
    dtype: ir.DataType

    def emit(self, op_type: str, *inputs: ir.Value | Array, **attributes: object) -> ir.Value:
        """Put a node before the one that is replaced."""
        number = len(self.graph)
        name = f"{self.node.name}.part.{number}"
        given = [x if isinstance(x, ir.Value) else self._constant(x, f"{name}.{i}") for i, x in enumerate(inputs)]
        made = ir.node(op_type, given, attributes=attributes, name=name)  # type: ignore[arg-type]
        made.outputs[0].name = f"{name}:0"
        self.graph.insert_before(self.node, made)
        return made.outputs[0]

    def mean(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The mean over the positions that count."""
        masked = self.emit("Mul", x, self.mask / self.share(axes))
        if self.opset >= 18:
            return self.emit("ReduceMean", masked, np.asarray(axes, np.int64), keepdims=1)
        return self.emit("ReduceMean", masked, axes=list(axes), keepdims=1)

    def share(self, axes: Sequence[int]) -> float:
        """How much of these axes counts; every line of them that counts at all has as much."""
        return float(np.broadcast_to(self.mask, self.shape).mean(axis=tuple(axes)).max())

    def replace_by(self, result: ir.Value, index: int = 0) -> None:
        """Let every reader of one of the node's outputs read this instead."""
        old = self.node.outputs[index]
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        old.name, result.name = result.name, old.name

    def _constant(self, array: Array, name: str) -> ir.Value:
        dtype = None if np.issubdtype(array.dtype, np.integer) else self.dtype
        return add_constant(self.graph, name, array if dtype is None else array.astype(dtype.numpy()), dtype)


WITHOUT_MEAN = ("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
Reference = Callable[[Part], None]
PARTS: dict[str, Reference] = {}


def part(*op_types: str) -> Callable[[Reference], Reference]:
    """Register the decorated function as the reference of these operators."""

    def register(function: Reference) -> Reference:
        PARTS.update(dict.fromkeys(op_types, function))
        return function

    return register


@part("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "LpNormalization")
def reduction(over: Part) -> None:
    """Zeros do not count in a sum; in a mean they count as positions."""
    scale = over.share(_axes(over)) if over.node.op_type == "ReduceMean" else 1.0
    x = over.node.inputs[0]
    assert x is not None
    over.node.replace_input_with(0, over.emit("Mul", x, over.mask / scale))


def _axes(over: Part) -> list[int]:
    given = over.node.attributes.get("axes")
    value = over.node.inputs[1] if len(over.node.inputs) > 1 else None
    axes = list(given.as_ints()) if given is not None else [] if value is None else array_of(value).tolist()
    return [int(axis) % len(over.shape) for axis in axes] or list(range(len(over.shape)))


@part("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(over: Part) -> None:
    """(x − mean) / √(variance + ε) · scale + bias; without the mean where the operator takes none off."""
    attributes, rank = over.node.attributes, len(over.shape)
    x, *vectors = over.node.inputs
    assert x is not None
    epsilon = attributes.get_float("epsilon", 1e-5)
    over.replace_by(_normal(over, x, range(attributes.get_int("axis", -1) % rank, rank), epsilon, *vectors))


@part("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_layer_norm(over: Part) -> None:
    """The sum of input, skip and bias, normalised over its last axis; the sum itself is the last output."""
    x, skip, scale, *more = over.node.inputs
    assert x is not None and skip is not None
    shift = more.pop(0) if more and over.node.op_type == "SkipLayerNormalization" else None
    total = over.emit("Add", x, skip)
    for bias in (vector for vector in more if vector is not None):
        total = over.emit("Add", total, bias)
    epsilon = over.node.attributes.get_float("epsilon", 1e-12)
    over.replace_by(_normal(over, total, [len(over.shape) - 1], epsilon, scale, shift))
    if len(over.node.outputs) > 3:
        over.replace_by(total, 3)


def _normal(over: Part, x: ir.Value, axes: Sequence[int], epsilon: float, *vectors: ir.Value | None) -> ir.Value:
    """What is normalised over some axes, times the first vector, plus the second."""
    centred = x if over.node.op_type in WITHOUT_MEAN else over.emit("Sub", x, over.mean(x, axes))
    variance = over.emit("Add", over.mean(over.emit("Mul", centred, centred), axes), np.asarray(epsilon))
    result = over.emit("Div", centred, over.emit("Sqrt", variance))
    for op_type, vector in zip(("Mul", "Add"), vectors, strict=False):
        result = over.emit(op_type, result, vector) if vector is not None else result
    return result
