"""Recurrent layers start from zeros unless told otherwise: states that are zeros anyway are left out of the graph.

Exporters cut the states of all layers from one tensor, which would make the layers lose the same units.
"""

import onnx_ir as ir

from onnxprune.graph import array_of

RECURRENT = ("LSTM", "GRU", "RNN")
STATES = (5, 6)
SHAPING = ("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")


def drop_zero_states(graph: ir.Graph) -> None:
    """Leave out the initial states of the graph's recurrent layers that are known to be zeros."""
    for node in graph:
        if node.op_type in RECURRENT and node.domain in ("", "ai.onnx"):
            for index in STATES:
                if index < len(node.inputs) and _zeros(node.inputs[index]):
                    node.replace_input_with(index, None)


def _zeros(value: ir.Value | None) -> bool:
    if value is None:
        return False
    if value.const_value is not None:
        return not array_of(value).any()
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get("value")
        return filled is None or not filled.as_tensor().numpy().any()
    return node.op_type in SHAPING and _zeros(node.inputs[0])
