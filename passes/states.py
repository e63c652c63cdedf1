"""Recurrent states that a model takes in and hands out: a layer keeps fewer units, the state keeps its size.

A product with the identity before the layer picks the units that stay, and one behind it puts them back in their
places among zeros; what is written does both by index. Whoever runs the model step by step sees no difference, and the
units that went read nothing.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxprune.graph import STATE, Array, add_constant, array_of, every_node

STATES = (5, 6)
ONE_MORE = [0, 0, 0, 0, 0, 1]
"""Padding of a state (directions, batch, units) that adds one unit of zeros at the end."""


def add_state_products(model: ir.Model, layers: Collection[str], readers: Collection[str]) -> ir.Model:
    """Put products with the identity around the states of the named recurrent layers of one direction.

    Behind a layer only where its output leads to an output of the graph past none of the nodes `readers`, which
    sum over it.
    """
    model = model.clone()
    for node in [node for node in every_node(model) if node.name in layers]:
        recurrence = node.inputs[2]
        assert recurrence is not None
        width = array_of(recurrence).shape[-1]
        for index in STATES:
            given = node.inputs[index] if len(node.inputs) > index else None
            if given is not None and given.const_value is None:
                node.replace_input_with(index, _product(model, node, given, f"in.{index}", width, before=True))
        for index, made in enumerate(node.outputs):
            leading = [(n, i) for n, i in made.uses() if _leads_out(n, readers)]
            if leading or made.is_graph_output():
                _behind(model, node, index, width, leading)
    return model


def _leads_out(node: ir.Node, readers: Collection[str]) -> bool:
    pending, seen = [node], set()
    while pending:
        here = pending.pop()
        if here in seen or here.name in readers:
            continue
        seen.add(here)
        if any(value.is_graph_output() for value in here.outputs):
            return True
        pending += [reader for value in here.outputs for reader, _ in value.uses()]
    return False


def _behind(model: ir.Model, node: ir.Node, index: int, width: int, leading: list[tuple[ir.Node, int]]) -> None:
    made = node.outputs[index]
    result = _product(model, node, made, f"out.{index}", width, before=False)
    for reader, place in leading:
        reader.replace_input_with(place, result)
    if made.is_graph_output() and node.graph is not None:
        outputs = node.graph.outputs
        outputs[list(outputs).index(made)] = result
        made.name, result.name = f"{made.name}::state", made.name


def _product(model: ir.Model, node: ir.Node, value: ir.Value, what: str, width: int, before: bool) -> ir.Value:
    name, graph = f"{node.name}.state.{what}", node.graph
    assert graph is not None
    dtype = node.inputs[1].dtype if node.inputs[1] is not None else None
    eye = add_constant(model.graph, f"{name}.units", np.eye(width, dtype=(dtype or ir.DataType.FLOAT).numpy()), dtype)
    product = ir.node("MatMul", [value, eye], name=name)
    product.meta[STATE] = width
    result = product.outputs[0]
    result.name, result.type, result.shape = f"{name}:0", value.type, value.shape
    graph.insert_before(node, product) if before else graph.insert_after(node, product)
    return result


def settle_products(model: ir.Model) -> ir.Model:
    """The model without the products whose layer kept every unit; the others become a choice by index."""
    model = model.clone()
    for node in [node for node in every_node(model) if STATE in node.meta]:
        eye, width = node.inputs[1], node.meta[STATE]
        assert eye is not None
        array = array_of(eye)
        if array.shape == (width, width):
            _replace(node, node.inputs[0])
        else:
            _replace(node, _picked(model, node, array) if array.shape[0] == width else _placed(model, node, array))
        if not eye.uses():
            del model.graph.initializers[eye.name or ""]
    return model


def _picked(model: ir.Model, node: ir.Node, selection: Array) -> ir.Value:
    """A column of the state for each unit that stays."""
    return _gathered(model, node, node.inputs[0], selection.argmax(axis=0))


def _placed(model: ir.Model, node: ir.Node, selection: Array) -> ir.Value:
    """For each place of the state the unit that stays, or one of zeros behind them."""
    kept = len(selection)
    if model.opset_imports.get("", 1) < 11:
        padded = ir.node("Pad", [node.inputs[0]], {"pads": ONE_MORE}, name=f"{node.name}.padded")
    else:
        pads = add_constant(model.graph, f"{node.name}.pads", np.array(ONE_MORE, np.int64))
        padded = ir.node("Pad", [node.inputs[0], pads], name=f"{node.name}.padded")
    padded.outputs[0].name = f"{node.name}.padded:0"
    assert node.graph is not None
    node.graph.insert_before(node, padded)
    return _gathered(model, node, padded.outputs[0], np.where(selection.any(axis=0), selection.argmax(axis=0), kept))


def _gathered(model: ir.Model, node: ir.Node, source: ir.Value | None, indices: Array) -> ir.Value:
    chosen = add_constant(model.graph, f"{node.name}.chosen", indices.astype(np.int64))
    gather = ir.node("Gather", [source, chosen], {"axis": 2}, name=f"{node.name}.gather")
    gather.outputs[0].name = f"{node.name}.gather:0"
    assert node.graph is not None
    node.graph.insert_before(node, gather)
    return gather.outputs[0]


def _replace(node: ir.Node, source: ir.Value | None) -> None:
    """Let the readers of a product's result read this instead, which takes over its name if that is an output."""
    result, graph = node.outputs[0], node.graph
    assert graph is not None
    assert source is not None
    if result.is_graph_output():
        graph.outputs[list(graph.outputs).index(result)] = source
        source.name, result.name = result.name, f"{result.name}::idle"
        source.type, source.shape = result.type, result.shape
    result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
