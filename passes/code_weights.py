"""Write weights as codes of a byte and a table of what they stand for: the file shrinks, the numbers are the table's.

Cast → Gather → Reshape (→ Slice, Transpose): onnxruntime computes these once, when it loads the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxprune.graph import (
    Array,
    add_constant,
    array_of,
    names_in,
    nodes_by_name,
    replace_constant,
    values_by_name,
)
from onnxprune.passes.factorize_low_rank import place_of_weight, rows_first


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight (n, F): `index` (n, ⌈F / s⌉) of uint8 names the rows of `table` (256, s) that it is put together of.

    The last segment of a row may hang over.
    """

    table: Array
    index: Array
    features: int

    def rows(self) -> Array:
        """The weight (n, F)."""
        return np.asarray(self.table[self.index].reshape(len(self.index), -1)[:, : self.features])

    @property
    def bytes(self) -> int:
        """Of the table and the index."""
        return int(self.table.nbytes + self.index.nbytes)


def code_weights(model: ir.Model, codes: Mapping[str, Codes]) -> tuple[ir.Model, dict[str, Codes]]:
    """Replace the weight of each named Gemm, MatMul or Conv; what codes became of it is returned by its name.

    The table takes the dtype of the weight.
    """
    model = model.clone()
    nodes, taken = nodes_by_name(model), names_in(model.graph)
    return model, dict(_write(model.graph, nodes[name], own, taken) for name, own in codes.items())


def decoded(dense: ir.Model, codes: Mapping[str, Codes]) -> ir.Model:
    """The model of whole weights, those that are coded in the other replaced by what their codes stand for."""
    model = dense.clone()
    values = values_by_name(model)
    for name, own in codes.items():
        weight = values[name]
        (node, _), *_ = weight.uses()
        shape, rows = array_of(weight).shape, own.rows()
        replace_constant(weight, rows.T if is_transposed(node) else rows.reshape(shape))
    return model


def is_transposed(node: ir.Node) -> bool:
    """Whether the weight has a column an output."""
    return node.op_type != "Conv" and not rows_first(node)


def _write(graph: ir.Graph, node: ir.Node, codes: Codes, taken: set[str]) -> tuple[str, Codes]:
    place = place_of_weight(node)
    weight = node.inputs[place]
    assert weight is not None and weight.name is not None and isinstance(node.graph, ir.Graph)
    like = array_of(weight)
    codes = replace(codes, table=codes.table.astype(like.dtype))
    index = add_constant(graph, f"{weight.name}.codes", codes.index, ir.DataType.UINT8, taken)
    table = add_constant(graph, f"{weight.name}.table", codes.table, weight.dtype, taken)
    steps = _Steps(graph, weight.name, taken, [])
    found = steps.add("Cast", [index], to=ir.DataType.INT32)
    found = steps.add("Gather", [table, found])
    wanted = (codes.features, len(codes.index)) if is_transposed(node) else like.shape
    overhang = codes.index.shape[1] * codes.table.shape[1] - codes.features
    if overhang or is_transposed(node):
        found = steps.add("Reshape", [found, steps.integers(len(codes.index), codes.features + overhang)])
    if overhang:
        found = steps.cropped(found, codes.features)
    if is_transposed(node):
        found = steps.add("Transpose", [found])
    elif not overhang or len(wanted) > 2:
        found = steps.add("Reshape", [found, steps.integers(*wanted)])
    found.type, found.shape = weight.type, ir.Shape(wanted)
    node.graph.insert_before(node, steps.nodes)
    node.replace_input_with(place, found)
    if not weight.uses() and not weight.is_graph_output() and weight.graph is not None:
        del weight.graph.initializers[weight.name]  # which may be a body
    return weight.name, codes


@dataclass(frozen=True, eq=False)
class _Steps:
    """The nodes that decode one weight, as they come."""

    graph: ir.Graph
    name: str
    taken: set[str]
    nodes: list[ir.Node]

    def add(self, operator: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        name = f"{self.name}.{operator.lower()}{len(self.nodes)}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        node = ir.node(operator, inputs, attributes, name=name)  # type: ignore[arg-type]
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def integers(self, *values: int) -> ir.Value:
        return add_constant(self.graph, f"{self.name}.shape", np.array(values, np.int64), taken=self.taken)

    def cropped(self, value: ir.Value, features: int) -> ir.Value:
        """The first columns."""
        if self.graph.opset_imports.get("", 1) < 10:
            return self.add("Slice", [value], axes=[1], starts=[0], ends=[features])
        return self.add("Slice", [value, self.integers(0), self.integers(features), self.integers(1)])
