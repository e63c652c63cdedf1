"""The constants of a graph by name: initializers, and what Constant nodes hold, of the main graph and of all bodies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, bodies

HELD = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": np.object_,
    "value_strings": np.object_,
}
"""The attributes that a Constant node may hold its number in, and of what type that is; a tensor has its own."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant's name, made unique where bodies side by side use one twice, and how to read it and to replace it."""

    key: str
    value: ir.Value
    tensor: ir.TensorProtocol
    replace: Callable[[Array], None]


def constants_of(model: ir.Model) -> list[Constant]:
    """All constants, in an order that a copy of the model shares."""
    taken: set[str] = set()
    found = []
    for value, tensor, replace in _all(model.graph):
        key = value.name or ""
        while key in taken:
            key += "_"
        taken.add(key)
        found.append(Constant(key, value, tensor, replace))
    return found


Found = tuple[ir.Value, ir.TensorProtocol, Callable[[Array], None]]


def _all(graph: ir.Graph) -> Iterator[Found]:
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value, value.const_value, _in_initializer(value)
    for node in graph:
        held = next((name for name in HELD if name in node.attributes), None) if is_constant(node) else None
        if held is not None:
            attribute = node.attributes[held]
            kind = HELD[held]
            tensor = attribute.as_tensor() if kind is None else _tensor(np.array(attribute.value, kind))
            yield node.outputs[0], tensor, _in_node(node)
        for body in bodies(node):
            yield from _all(body)


def _tensor(array: Array) -> ir.TensorProtocol:
    if array.dtype != np.object_:
        return ir.tensor(array)
    texts = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1)]
    return ir.StringTensor(texts, shape=ir.Shape(array.shape))


def is_constant(node: ir.Node) -> bool:
    """Whether the node is a Constant."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _in_initializer(value: ir.Value) -> Callable[[Array], None]:
    def replace(array: Array) -> None:
        assert value.const_value is not None
        value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=value.name)

    return replace


def _in_node(node: ir.Node) -> Callable[[Array], None]:
    def replace(array: Array) -> None:
        for name in HELD:
            node.attributes.pop(name, None)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))

    return replace
