"""Write layers as products: each named node becomes two, with as few channels between them as their factors have."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, add_constant, array_of, constants, every_node, names_in, replace_constant

SCALES = ("alpha", "beta")
"""A Gemm's: they belong to the node that has the bias."""
NOTHING = {"strides": 1, "pads": 0, "dilations": 1, "kernel_shape": 1}
"""What stands in a convolution's attributes for a side along which it does nothing."""
BIAS_OPTIONAL = 11
"""The opset from which on a Gemm needs none."""
WINDOW = ("strides", "pads", "dilations", "auto_pad", "kernel_shape")
"""A convolution's: they belong to the node that reads the input."""


@dataclass(frozen=True, eq=False)
class Written:
    """What a layer's weight became: the names of the second node, of the weight, and of the two constants; the rank.

    `along`: the two go along one side of the window each.
    """

    node: str
    weight: str
    first: str
    second: str
    rank: int
    along: bool = False


def factorize_low_rank(
    model: ir.Model, factors: Mapping[str, tuple[Array, Array]]
) -> tuple[ir.Model, tuple[Written, ...]]:
    """Replace the weight (n, F) of each named Gemm, MatMul or Conv by `first` (k, F) and `second` (n, k).

    The first of the two nodes reads what the layer read, in the way it did (strides, padding); the second, which
    keeps the name, the bias and the output, mixes the k channels. Factors (k, C, kh) and (n, k, kw) make a Conv one
    along the first side of its window and one along the second. A weight that nothing else reads goes.
    """
    model = model.clone()
    nodes, taken = {node.name: node for node in every_node(model)}, names_in(model.graph)
    return model, tuple(_write(model, nodes[name], *own, taken) for name, own in factors.items())


def multiplied(dense: ir.Model, factored: ir.Model, written: tuple[Written, ...]) -> ir.Model:
    """The model of whole layers with the numbers that the other one has now: products in the place of factors."""
    model = dense.clone()
    found = {value.name: array_of(value) for value in constants(factored)}
    nodes = {node.name: node for node in every_node(factored)}
    products = {one.weight: _product(nodes[one.node], found[one.first], found[one.second]) for one in written}
    for value in constants(model):
        array = products.get(value.name or "", found.get(value.name))
        if array is not None:
            replace_constant(value, array.reshape(array_of(value).shape))
    return model


def matrix_of(node: ir.Node) -> Array:
    """The weight (n, F) of a Gemm, MatMul or Conv."""
    weight = node.inputs[place_of_weight(node)]
    assert weight is not None
    array = array_of(weight).astype(np.float64)
    return array.reshape(len(array), -1) if node.op_type == "Conv" or rows_first(node) else array.T


def window_of(node: ir.Node) -> tuple[int, ...]:
    """The sides of a Conv's window."""
    weight = node.inputs[place_of_weight(node)]
    assert weight is not None
    return array_of(weight).shape[2:]


def _write(model: ir.Model, node: ir.Node, first: Array, second: Array, taken: set[str]) -> Written:
    graph, place = model.graph, place_of_weight(node)
    weight, x, scope = node.inputs[place], node.inputs[1 - place], node.graph
    assert weight is not None and weight.name is not None and isinstance(scope, ir.Graph)
    shaped = _shaped(node, first, second)
    one, two = (
        add_constant(graph, f"{weight.name}.{name}", array.astype(array_of(weight).dtype), weight.dtype, taken)
        for name, array in zip(("first", "second"), shaped, strict=True)
    )
    ahead, behind = _attributes(node, along=second.ndim == 3)
    inputs = [one, x] if place == 0 else [x, one]
    if node.op_type == "Gemm" and model.opset_imports.get("", 1) < BIAS_OPTIONAL:
        nothing = np.zeros(len(first), array_of(weight).dtype)
        inputs.append(add_constant(graph, f"{weight.name}.nothing", nothing, weight.dtype, taken))
    head = ir.Node(node.domain, node.op_type, inputs, ahead, num_outputs=1)
    head.name, head.outputs[0].name = f"{node.name}.first", _unused(f"{weight.name}.between", taken)
    head.outputs[0].type = node.outputs[0].type
    scope.insert_before(node, head)
    node.replace_input_with(place, two)
    node.replace_input_with(1 - place, head.outputs[0])
    node.attributes.clear()
    node.attributes.update({attribute.name: attribute for attribute in behind})
    if not weight.uses() and not weight.is_graph_output() and weight.graph is not None:
        del weight.graph.initializers[weight.name]  # which may be a body
    return Written(node.name or "", weight.name, one.name or "", two.name or "", len(first), second.ndim == 3)


def _attributes(node: ir.Node, along: bool) -> tuple[list[ir.Attr], list[ir.Attr]]:
    """Those of the two nodes; `along`: the first goes along the window's first side, the second along the other."""
    given = list(node.attributes.values())
    if along:
        return [_of_side(one, 0) for one in given], [_of_side(one, 1) for one in given]
    whole = [one for one in given if one.name not in SCALES]
    return whole, [one for one in given if one.name not in (*WINDOW, "transA")]


def _of_side(attribute: ir.Attr, side: int) -> ir.Attr:
    """A convolution's attribute, with numbers for the other side that say nothing."""
    if attribute.name not in NOTHING:
        return attribute
    numbers = [int(i) for i in attribute.as_ints()]
    idle = NOTHING[attribute.name]
    return ir.AttrInt64s(attribute.name, [n if i % 2 == side else idle for i, n in enumerate(numbers)])


def place_of_weight(node: ir.Node) -> int:
    """Which input is the weight: of two, the constant one."""
    left = node.inputs[0]
    return 0 if node.op_type == "MatMul" and left is not None and left.const_value is not None else 1


def rows_first(node: ir.Node) -> bool:
    """Whether the weight has a row an output, not a column."""
    flipped = node.attributes.get("transB")
    return place_of_weight(node) == 0 or (flipped is not None and bool(flipped.as_int()))


def _shaped(node: ir.Node, first: Array, second: Array) -> tuple[Array, Array]:
    """The factors as the two nodes want them."""
    if node.op_type == "Conv":
        weight = node.inputs[1]
        assert weight is not None
        channels, *kernel = array_of(weight).shape[1:]
        if second.ndim == 3:
            return first[..., None], second[:, :, None]
        return first.reshape(len(first), channels, *kernel), second.reshape(*second.shape, *(1 for _ in kernel))
    return (first, second) if rows_first(node) else (first.T, second.T)


def _product(second: ir.Node, first: Array, last: Array) -> Array:
    """The weight, in the layout of the layer but flat."""
    a, b = first.astype(np.float64), last.astype(np.float64)
    if second.op_type == "Conv":
        return np.asarray(np.einsum("nk...,kc...->nc...", b, a, optimize=True))  # of each side one has length 1
    return np.asarray(b @ a if rows_first(second) else a @ b)


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
