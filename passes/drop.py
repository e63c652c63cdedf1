"""Take nodes out of the graph that hand an input through, and constants that nothing reads any more."""

from collections.abc import Iterable

import onnx_ir as ir


def drop_node(node: ir.Node, given: ir.Value) -> None:
    """Who read the node's output reads its input `given`, which takes over the name of an output of the model.

    Constants that the node alone read go with it. Where the output is one of the model's, it alone may read `given`.
    """
    constants = [v for v in node.inputs if v is not None and v is not given and v.is_initializer()]
    _take_over(given, node.outputs[0])
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)
    drop_unread(constants)


def _take_over(before: ir.Value, after: ir.Value) -> None:
    """The one value takes over the other's readers, and its name where that is an output of the model."""
    name, graph = after.name, after.graph
    assert graph is not None
    if after.is_graph_output():
        position = list(graph.outputs).index(after)
        before.type, before.shape = after.type, after.shape
        after.replace_all_uses_with(before, replace_graph_outputs=True)
        after.name = f"{name}::folded"
        before.name = name
        assert list(graph.outputs)[position] is before
    else:
        after.replace_all_uses_with(before)


def drop_unread(values: Iterable[ir.Value]) -> None:
    """The runtime warns of every initializer that nothing reads; one that is listed as an input goes from there too."""
    for value in dict.fromkeys(values):
        graph = value.graph
        if isinstance(graph, ir.Graph) and value.is_initializer() and not (value.uses() or value.is_graph_output()):
            del graph.initializers[value.name or ""]
            if value.is_graph_input():
                graph.inputs.remove(value)
