"""A new head: the mean of each channel over all positions, and one layer on that, in the place of an output's tail.

That is the GAP variant of ThiNet (Luo et al. 2017); what stands behind the old head's last layer stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.graph import add_constant, names_in, nodes_by_name, values_by_name
from onnxprune.labels import Shape

AXES_AS_INPUT = 18
"""From this opset on ReduceMean takes its axes as an input."""


@dataclass(frozen=True, eq=False)
class Head:
    """A layer on pooled channels: `weight` (n, C) and `bias` (n,), of the dtype of what it gives.

    It reads the value named `source`, of the rank given, with channels along `axis`, and gives the one named `target`,
    of the shape (N, *`rest`). `cast`: the source has another dtype.
    """

    source: str
    rank: int
    axis: int
    target: str
    rest: Shape
    weight: ir.TensorProtocol
    bias: ir.TensorProtocol
    cast: bool


def pool_head(model: ir.Model, heads: Sequence[Head]) -> ir.Model:
    """The model with each target computed by its new head; what nothing reads any more goes.

    Names, types and declared shapes of the targets stay, so those of outputs do.
    """
    model = model.clone()
    taken = names_in(model.graph) | set(nodes_by_name(model))
    pools: dict[str, ir.Value] = {}
    for head in heads:
        _place(model, head, pools, taken)
    RemoveUnusedNodesPass()(model)
    return model


def _place(model: ir.Model, head: Head, pools: dict[str, ir.Value], taken: set[str]) -> None:
    graph, values = model.graph, values_by_name(model)
    target, source = values[head.target], values[head.source]
    made, last = source.producer(), target.producer()
    assert made is not None and last is not None
    if head.source not in pools:  # behind the source, so that tails that end in any order can share it
        pools[head.source] = _pooled(_Added(graph, made, taken), source, head, model.opset_imports[""])
    added, pooled = _Added(graph, last, taken), pools[head.source]
    if head.cast:
        pooled = added.node("Cast", [pooled], {"to": head.weight.dtype.value}, f"{head.target}.cast")
    weight, bias = (
        add_constant(graph, f"{head.target}.{kind}", tensor.numpy(), tensor.dtype, taken)
        for kind, tensor in (("head", head.weight), ("head.bias", head.bias))
    )
    result = added.node("Gemm", [pooled, weight, bias], {"transB": 1}, f"{head.target}.gap")
    if len(head.rest) > 1:
        sizes = add_constant(graph, f"{head.target}.sizes", np.array([-1, *head.rest], np.int64), None, taken)
        result = added.node("Reshape", [result, sizes], {}, f"{head.target}.shaped")
    _take_over(target, result)


@dataclass(eq=False)
class _Added:
    """Puts new nodes behind a node, and behind each other."""

    graph: ir.Graph
    behind: ir.Node
    taken: set[str]

    def node(self, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, Any], name: str) -> ir.Value:
        """The result of a new node; both have the name, made unique."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.graph.insert_after(self.behind, node)
        self.behind = node
        return node.outputs[0]


def _pooled(added: _Added, source: ir.Value, head: Head, opset: int) -> ir.Value:
    """(N, C), by the operator that runtimes know best; that one wants the channels in front."""
    name = f"{head.source}.pooled"
    if head.axis == 1:
        pooled = added.node("GlobalAveragePool", [source], {}, name)
        return added.node("Flatten", [pooled], {"axis": 1}, f"{name}.flat")
    axes = [axis for axis in range(1, head.rank) if axis != head.axis]
    if opset < AXES_AS_INPUT:
        return added.node("ReduceMean", [source], {"axes": axes, "keepdims": 0}, name)
    given = add_constant(added.graph, f"{name}.axes", np.array(axes, np.int64), None, added.taken)
    return added.node("ReduceMean", [source, given], {"keepdims": 0}, name)


def _take_over(target: ir.Value, result: ir.Value) -> None:
    """The new result has the readers of the old one, and its name, type and shape."""
    name = target.name
    result.type, result.shape = target.type, target.shape
    target.replace_all_uses_with(result, replace_graph_outputs=True)
    target.name, result.name = f"{name}::replaced", name
