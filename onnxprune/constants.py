"""Constants that the graph computes: values with nothing but initializers behind them, such as dequantised weights."""

from collections.abc import Collection

import onnx_ir as ir

from onnxprune.graph import Array, array_of
from onnxprune.runtime import open_session, run

RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike")


def computed_constants(model: ir.Model) -> frozenset[ir.Value]:
    """The results of the nodes that read constants only; chains count, and what is drawn anew each run does not."""
    found: set[ir.Value] = set()
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        fixed = given and all(value.is_initializer() or value in found for value in given)
        if fixed and node.op_type not in RANDOM and not any(_is_body(a) for a in node.attributes.values()):
            found.update(node.outputs)
    return frozenset(found)


def _is_body(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def constant_array(model: ir.Model, value: ir.Value) -> Array:
    """The contents of an initializer or of a constant that the model computes."""
    return array_of(value) if value.const_value is not None else constant_arrays(model, [value])[value.name or ""]


def constant_arrays(model: ir.Model, values: Collection[ir.Value]) -> dict[str, Array]:
    """The contents of computed constants, by name."""
    return run(open_session(model, inputs=[], outputs=[value.name or "" for value in values]), {})
