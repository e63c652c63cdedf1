"""The layers that a rebuild may solve again: their order, what is added to their output, and what clips it."""

from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.dependency import Analysis
from onnxprune.graph import captured_values, sole_reader
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.stored import stored
from onnxprune.trace import Trace
from onnxprune.weights import bias_behind


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer as the rebuild sees it.

    `wave`: how many such layers stand before it on the longest path, so that waves can be solved one after the
    other. `partner`: the activation that is added to its output and known by then (a shortcut), whose error the
    layer can absorb. `activation`: the type of the operators that alone read the result; empty where they differ.
    """

    linear: Linear
    bias: ir.Value | None
    wave: int
    partner: ir.Value | None
    activation: str

    @property
    def clipped(self) -> bool:
        """Whether a Relu alone reads the result, so that any negative value is as good as another."""
        return self.activation == "Relu"

    @property
    def name(self) -> str:
        """The node's name."""
        return self.linear.node.name or ""


def solvable(analysis: Analysis) -> list[Linear]:
    """The layers whose weight can be solved for: plainly X Wᵀ + b in real numbers, constants of their own."""
    plain = [linear for linear in analysis.linears if linear.refit and linear.decode is None]
    return [x for x in plain if stored(x.weight) is not None and (x.bias is None or stored(x.bias) is not None)]


def layers_in_order(analysis: Analysis) -> tuple[list[Layer], dict[str, int]]:
    """The solvable layers, front to back, and the wave after which each value, by name, is final.

    Values in branches count where `analysis.flat` has them.
    """
    by_name = {linear.node.name or "": linear for linear in solvable(analysis)}
    wave: dict[str, int] = {}
    for node in analysis.flat.graph:
        inputs = [*(v for v in node.inputs if v is not None), *captured_values(node)]
        ready = max((wave.get(v.name or "", 0) for v in inputs), default=0) + (node.name in by_name)
        wave.update({v.name: ready for v in node.outputs if v.name})
    layers = [_layer(linear, wave, analysis.trace) for linear in by_name.values()]
    return sorted(layers, key=lambda layer: layer.wave), wave


def _layer(linear: Linear, wave: dict[str, int], trace: Trace) -> Layer:
    ready, result, bias = wave.get(linear.x.name or "", 0), linear.y, linear.bias
    if linear.kind == "recurrent":  # what it is solved for stays inside the operator
        return Layer(linear, bias, ready, None, "")
    if linear.kind == "matmul" and (bias := bias_behind(linear.node)) is not None:
        add = sole_reader(result)
        assert add is not None
        result = add.outputs[0]
    partner = _partner(result)
    if partner is not None and wave.get(partner.name or "", 0) <= ready and trace.shape(partner) == trace.shape(result):
        total = sole_reader(result)
        assert total is not None
        result = total.outputs[0]
    else:
        partner = None
    return Layer(linear, bias, ready, partner, _activation(result))


def _partner(result: ir.Value) -> ir.Value | None:
    """The other operand, computed too, of an Add that alone reads the result."""
    add = sole_reader(result)
    if add is None or add.op_type != "Add":
        return None
    others = [v for v in add.inputs if v is not result and v is not None]
    return others[0] if len(others) == 1 and others[0].const_value is None else None


def _activation(result: ir.Value) -> str:
    types = {node.op_type for node, _ in result.uses()}
    return types.pop() if len(types) == 1 and not result.is_graph_output() else ""
