"""Put the branches that a model takes in the place of its If nodes, so that what is in them can be seen and solved."""

from collections.abc import Mapping

import onnx_ir as ir


def take_branches(model: ir.Model, taken: Mapping[str, str]) -> ir.Model:
    """The model with the body `taken[name]` ("then_branch", "else_branch") in the place of each If node so named.

    An If in such a body counts as well. Nodes and values keep their names; what a body hands out gets that of the
    node's output through an Identity. The result computes the same wherever the original takes these branches.
    """
    model = model.clone()
    while chosen := [node for node in model.graph if node.op_type == "If" and node.name in taken]:
        for node in chosen:
            _open(model.graph, node, node.attributes[taken[node.name or ""]].as_graph())
    return model


def _open(graph: ir.Graph, node: ir.Node, body: ir.Graph) -> None:
    results, nodes = list(body.outputs), list(body)
    body.outputs.clear()
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        graph.register_initializer(value)
    body.remove(nodes)
    handed = [ir.node("Identity", [value], name=f"{node.name}.{i}") for i, value in enumerate(results)]
    graph.insert_before(node, [*nodes, *handed])
    for old, identity in zip(node.outputs, handed, strict=True):
        new, name = identity.outputs[0], old.name or ""
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}::closed", name
    graph.remove(node, safe=True)
