"""Constants that the graph computes: values with nothing but initializers behind them, such as dequantised weights."""

import onnx
import onnx_ir as ir

from onnxprune.graph import Array, array_of, bodies, every_node
from onnxprune.runtime import open_session, run

RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike")


def computed_constants(model: ir.Model) -> frozenset[ir.Value]:
    """The results of the nodes that read constants only; chains count, and what is drawn anew each run does not."""
    found: set[ir.Value] = set()
    for node in every_node(model):
        given = [value for value in node.inputs if value is not None]
        fixed = given and all(value.is_initializer() or value in found for value in given)
        if fixed and node.op_type not in RANDOM and not bodies(node):
            found.update(node.outputs)
    return frozenset(found)


def constant_array(model: ir.Model, value: ir.Value) -> Array:
    """The contents of an initializer or of a constant that the model computes."""
    if value.const_value is not None:
        return array_of(value)
    nodes: list[ir.Node] = []
    constants: dict[str, onnx.TensorProto] = {}
    pending = [value]
    while pending:
        one = pending.pop()
        node = one.producer()
        if node is not None:
            nodes.append(node)
            pending += [given for given in node.inputs if given is not None]
        elif one.const_value is not None and one.name:
            constants[one.name] = onnx.numpy_helper.from_array(array_of(one), one.name)
    order = [ir.to_proto(node) for node in dict.fromkeys(reversed(nodes))]
    result = onnx.ValueInfoProto(name=value.name)
    graph = onnx.helper.make_graph(order, "constant", [], [result], list(constants.values()))
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    functions = [ir.to_proto(function) for function in model.functions.values()]
    made = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, functions=functions)
    return run(open_session(ir.from_proto(made)), {})[value.name or ""]
