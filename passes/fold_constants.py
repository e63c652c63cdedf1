"""Tensors that are constant in all channels become constants, and what adds nothing to them or scales by one goes."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.dependency import Analysis
from onnxprune.graph import add_constant, nodes_by_name, sole_reader, values_by_name
from onnxprune.op_rules.registry import Op
from onnxprune.op_rules.scales import neutral
from onnxprune.op_rules.steady import Steady, pointwise
from onnxprune.passes.drop import drop_node


def fold_constants(analysis: Analysis, found: Mapping[ir.Value, Steady]) -> tuple[ir.Model, list[str]]:
    """The model with constants in the place of results that are `found` to be constant throughout; and their names.

    Only where everything that reads such a result works position by position with another tensor of full size, since a
    constant has no axes that depend on the input.
    """
    model = analysis.model.clone()
    values, names = values_by_name(model), []
    constant = {value: one.numbers for value, one in found.items() if np.all(one.known)}
    for value, numbers in constant.items():
        if not value.is_graph_output() and _joined_by_others(analysis, value, constant):
            fresh = add_constant(model.graph, f"{value.name}.constant", numbers, value.dtype)
            values[value.name or ""].replace_all_uses_with(fresh)
            names.append(value.name or "")
    if names:
        RemoveUnusedNodesPass()(model)
    return model, names


def drop_neutral(analysis: Analysis) -> tuple[ir.Model, list[str]]:
    """The model without sums with nothing and products with one; and the names of those nodes."""
    model = analysis.model.clone()
    nodes, names = nodes_by_name(model), []
    for node in analysis.model.graph:
        index = neutral(node)
        given = None if index is None else node.inputs[index]
        if given is None or analysis.trace.shape(given) != analysis.trace.shape(node.outputs[0]):
            continue
        own = nodes[node.name or ""]
        source = own.inputs[index or 0]
        if source is not None and (not own.outputs[0].is_graph_output() or _may_be_output(source)):
            drop_node(own, source)
            names.append(node.name or "")
    return model, names


def _may_be_output(value: ir.Value) -> bool:
    return value.producer() is not None and sole_reader(value) is not None


def _joined_by_others(analysis: Analysis, value: ir.Value, constant: Collection[ir.Value]) -> bool:
    """Whether each reader has the shape of its result from another computed input."""
    uses = list(value.uses())
    for node, _ in uses:
        op = Op(node, analysis.model.opset_imports.get("", 1), {}, analysis.trace, lambda n: np.empty(n, np.int64))
        others = [v for v in node.inputs if v is not None and v not in constant and v.const_value is None]
        shape = analysis.trace.shape(node.outputs[0])
        whole = any(analysis.trace.knows(v) and analysis.trace.shape(v) == shape for v in others)
        if not whole or not pointwise(op) or node.graph is not analysis.model.graph:
            return False
    return bool(uses)
