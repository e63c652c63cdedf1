"""Give every layer that will be refitted a bias, so that a removed channel's mean has a place to go."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxprune.graph import add_constant, array_of, every_node
from onnxprune.passes.fold_batchnorm import give_bias
from onnxprune.weights import bias_behind


def add_bias(model: ir.Model, layers: Collection[str]) -> ir.Model:
    """Add a zero bias to the named Conv, ConvTranspose, Gemm and MatMul nodes that have none, and a weight in numbers.

    A MatMul gets an Add behind it, unless one with a constant stands there already.
    """
    model = model.clone()
    for node in list(every_node(model)):
        weight = node.inputs[1] if node.name in layers else None
        if weight is not None and weight.const_value is not None:
            _add(model.graph, node)
    return model


def _add(graph: ir.Graph, node: ir.Node) -> None:
    if node.op_type == "MatMul":
        if bias_behind(node) is None:
            _append_add(graph, node)
    elif len(node.inputs) < 3 or node.inputs[2] is None:
        weight = node.inputs[1]
        assert weight is not None
        give_bias(graph, node, np.zeros(_outputs(node, weight)))


def _outputs(node: ir.Node, weight: ir.Value) -> int:
    shape = array_of(weight).shape
    if node.op_type == "Gemm":
        flipped = node.attributes.get("transB")
        return int(shape[0] if flipped is not None and flipped.as_int() else shape[1])
    if node.op_type == "Conv":
        return int(shape[0])
    group = node.attributes.get("group")
    return int(shape[1]) * (1 if group is None else group.as_int())


def _append_add(graph: ir.Graph, matmul: ir.Node) -> None:
    """Y → Y', Y = Y' + 0: the old name stays with the sum, since that may be an output of the model.

    Biases of layers in branches are constants of the main graph, too.
    """
    weight, total = matmul.inputs[1], matmul.outputs[0]
    assert weight is not None and weight.const_value is not None
    columns = weight.const_value.shape.numpy()[-1]
    bias = add_constant(graph, f"{weight.name}.bias", np.zeros(columns, array_of(weight).dtype), weight.dtype)
    add = ir.node("Add", [total, bias], name=f"{matmul.name}.bias")
    name, result = total.name, add.outputs[0]
    result.type, result.shape = total.type, total.shape
    scope = matmul.graph
    assert isinstance(scope, ir.Graph)
    scope.insert_after(matmul, add)
    for reader, index in list(total.uses()):
        if reader is not add:
            reader.replace_input_with(index, result)
    if total.is_graph_output():
        position = list(scope.outputs).index(total)
        scope.outputs[position] = result
    total.name, result.name = f"{name}::unbiased", name
