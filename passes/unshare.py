"""Vectors that several nodes read: each gets its own copy, so that their channels need not go together.

Exporters keep equal constants once, and fresh biases are all zeros. A weight that several nodes read stays one tensor.
"""

import onnx_ir as ir

from onnxprune.graph import add_constant, array_of, names_in

LONGEST = 65_536
"""Bytes of a vector that may be copied."""


def unshare_vectors(graph: ir.Graph) -> None:
    """Copy every shared vector of numbers for each reader but the first; sizes and indices (int64) stay shared.

    One that is listed among the graph's inputs may be replaced there by whoever runs the model: it stays shared too.
    """
    taken = names_in(graph)
    for value in list(graph.initializers.values()):
        if _vector(value):
            _, *others = dict.fromkeys(node for node, _ in value.uses())
            for node in others:
                copy = add_constant(graph, value.name or "", array_of(value), value.dtype, taken)
                for index in (i for i, given in enumerate(node.inputs) if given is value):
                    node.replace_input_with(index, copy)


def _vector(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.INT64 or value.is_graph_input() or value.is_graph_output():
        return False
    return len(tensor.shape) == 1 and tensor.size > 1 and tensor.nbytes <= LONGEST and len(value.uses()) > 1
