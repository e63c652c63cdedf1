"""Constant factors on channels go into weights: of the layer that makes the channels, or of those that read them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, analyse
from onnxprune.graph import Array, add_constant, array_of, replace_constant
from onnxprune.labels import WHOLE, Labels
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.registry import Op
from onnxprune.op_rules.scales import Gate, added, gate, passes_scale
from onnxprune.op_rules.steady import affine, channel_axis, pointwise
from onnxprune.passes.drop import drop_node, drop_unread
from onnxprune.steady import labels_of
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector


@dataclass(frozen=True)
class FoldedGate:
    """A node that multiplied by so many constants: the layers that took the factors in, or why it stays."""

    name: str
    factors: int
    into: tuple[str, ...] = ()
    reason: str = ""


class _Declined(Exception):
    """Why a gate cannot be moved this way."""


@dataclass(frozen=True, eq=False)
class _Graph:
    """Who makes and who reads what, and the atoms on it."""

    analysis: Analysis
    labels: Mapping[ir.Value, Labels]
    makers: Mapping[ir.Value, Linear]
    readers: Mapping[ir.Node, Linear]

    def op(self, node: ir.Node) -> Op:
        """The node as the rules see it."""
        opset = self.analysis.model.opset_imports.get("", 1)
        return Op(node, opset, self.labels, self.analysis.trace, lambda count: np.empty(count, np.int64))


@dataclass(frozen=True, eq=False)
class _Factors:
    """The factor of each of some atoms, or (`alone`) one for all; `axis` and `direct` as the gate has them."""

    atoms: Array
    numbers: Array
    axis: int | None
    direct: Array
    at: tuple[ir.Value, ...]

    def along(self, graph: _Graph, value: ir.Value, axis: int, others: bool) -> Array:
        """The factor of each position of an axis; 1 for atoms that the gate never saw, where there may be `others`."""
        width = graph.analysis.trace.shape(value)[axis]
        if self.axis is None and not others:
            return np.broadcast_to(self.direct, width)
        rank = len(graph.analysis.trace.shape(value))
        label = next((x for x in graph.labels.get(value, ()) if x.axes == (axis % rank,)), None)
        if value in self.at and self.axis == axis % rank:
            return self.direct
        if label is None or not self.atoms.size:
            raise _Declined(f"its channels are not told apart in {value.name!r}")
        place = np.minimum(np.searchsorted(self.atoms, label.atoms), self.atoms.size - 1)
        mine = self.atoms[place] == label.atoms
        if not (others or mine.all()) or not np.isin(self.atoms, label.atoms).all():
            raise _Declined(f"its channels are not told apart in {value.name!r}")
        return np.where(mine, self.numbers[place], 1.0)


@dataclass(eq=False)
class _Changes:
    """What is to be multiplied: weights by row or column, biases and addends by channel."""

    rows: list[tuple[Linear, Array]] = field(default_factory=list)
    columns: list[tuple[Linear, Array]] = field(default_factory=list)
    addends: list[tuple[ir.Node, int, int, Array]] = field(default_factory=list)
    norm: list[tuple[ir.Node, Array]] = field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        """The layers that take the factors in."""
        nodes = [*(x.node for x, _ in (*self.rows, *self.columns)), *(node for node, _ in self.norm)]
        return tuple(node.name or "" for node in nodes)


def fold_gates(analysis: Analysis) -> tuple[ir.Model, list[FoldedGate]]:
    """The model with every constant factor that can be moved multiplied into a weight, its node dropped; and what went.

    A factor moves up to the layer whose output it alone reads, or down to all the layers that read what it makes; on
    the way past operators that a factor passes. Names stay, of outputs of the model too.
    """
    analysis = analyse(analysis.model.clone(), analysis.trace)
    graph = _Graph(
        analysis,
        labels_of(analysis),
        {x.y: x for x in analysis.linears if affine(x)},
        {x.node: x for x in analysis.linears if affine(x)},
    )
    found = (gate(node) for node in list(analysis.model.graph))
    return analysis.model, [_fold(graph, one) for one in found if one is not None]


def _fold(graph: _Graph, one: Gate) -> FoldedGate:
    name, reasons = one.node.name or "", []
    for find in (_above, _below):
        changes = _Changes()
        try:
            find(graph, one, _factors(graph, one), changes)
        except _Declined as declined:
            reasons.append(str(declined))
            continue
        _apply(graph.analysis.model, changes)
        drop_node(one.node, one.data)
        return FoldedGate(name, one.factors.size, changes.names())
    return FoldedGate(name, one.factors.size, reason="; ".join(dict.fromkeys(reasons)))


def _factors(graph: _Graph, one: Gate) -> _Factors:
    shape = graph.analysis.trace.shape(one.data)
    if graph.analysis.trace.shape(one.node.outputs[0]) != shape:
        raise _Declined("it repeats what it multiplies")
    dims = (*[1] * (len(shape) - one.factors.ndim), *one.factors.shape)
    long = [axis for axis, size in enumerate(dims) if size > 1]
    if len(long) > 1:
        raise _Declined("its factors vary along several axes")
    none, at = np.empty(0, np.int64), (one.data, one.node.outputs[0])
    if not long:
        label = next(iter(graph.labels.get(one.data, ())), None)
        atoms = none if label is None or np.any(label.atoms == WHOLE) else np.unique(label.atoms)
        return _Factors(atoms, np.broadcast_to(one.factors.reshape(()), atoms.size), None, one.factors.reshape(()), at)
    numbers = one.factors.reshape(-1)
    label = next((x for x in graph.labels.get(one.data, ()) if x.axes == (long[0],)), None)
    if label is None or np.any(label.atoms == WHOLE):
        return _Factors(none, numbers[:0], long[0], numbers, at)
    own, first, member = np.unique(label.atoms, return_index=True, return_inverse=True)
    if not np.array_equal(numbers[first][member], numbers):
        raise _Declined("a channel that lies at several places has several factors")
    return _Factors(own, numbers[first], long[0], numbers, at)


def _above(graph: _Graph, one: Gate, factors: _Factors, changes: _Changes) -> None:
    """Up to the layer that makes the channels."""
    value = one.data
    while True:
        _require_sole(value)
        layer, node = graph.makers.get(value), value.producer()
        if layer is not None:
            _require_own(layer, *([] if layer.bias is None else [layer.bias]))
            if layer.bias is not None and array_of(layer.bias).size not in (1, layer.outputs.size):
                raise _Declined(f"the bias of {layer.node.name} differs from row to row")
            changes.rows.append((layer, factors.along(graph, value, channel_axis(layer), False)))
            return
        if node is None or node.graph is not graph.analysis.model.graph:
            raise _Declined("no layer stands before it")
        if node.op_type == "BatchNormalization" and node.outputs[0] is value:
            _require_constants(node.inputs[1:3])
            changes.norm.append((node, factors.along(graph, value, 1, False)))
            return
        value = _past(graph, node, factors, changes)


def _past(graph: _Graph, node: ir.Node, factors: _Factors, changes: _Changes) -> ir.Value:
    """The input of a node that a factor moves past, upwards; what is added on the way is multiplied too."""
    index = added(node)
    if index is not None:
        _require_constants(node.inputs[1 - index : 2 - index])
        changes.addends.append((node, 1 - index, *_of_addend(graph, node, factors)))
    elif node.op_type == "Concat" or not passes_scale(node, factors.direct):
        raise _Declined(f"{node.op_type} ({node.name}) stands before it")
    given = node.inputs[index or 0]
    assert given is not None
    return given


def _of_addend(graph: _Graph, node: ir.Node, factors: _Factors) -> tuple[int, Array]:
    """(the axis counted from the last, the factors along it)."""
    value = node.outputs[0]
    rank = len(graph.analysis.trace.shape(value))
    if factors.axis is None:
        return -1, factors.direct.reshape(1)
    for axis in range(rank):
        try:
            return axis - rank, factors.along(graph, value, axis, False)
        except _Declined:
            continue
    raise _Declined(f"its channels are not told apart in {value.name!r}")


def _below(graph: _Graph, one: Gate, factors: _Factors, changes: _Changes) -> None:
    """Down to every layer that reads the channels.

    One number behind a pointwise operator stays: together they may be what the runtime computes at once, as a Gelu.
    """
    maker = one.data.producer()
    if factors.axis is None and maker is not None and pointwise(graph.op(maker)):
        raise _Declined("one number for all channels goes up only")
    pending, joined = [one.node.outputs[0]], False
    while pending:
        value = pending.pop()
        if value.is_graph_output() or not value.uses():
            raise _Declined("it is an output of the model")
        for node, index in value.uses():
            layer = graph.readers.get(node)
            if layer is not None and index == 0:
                _require_own(layer)
                axis = channel_axis(layer)
                changes.columns.append((layer, factors.along(graph, value, axis, joined)))
            elif node.graph is graph.analysis.model.graph and _moves_on(node, value, factors):
                if node.op_type == "Concat":
                    _require_apart(graph, node, value, factors)
                    joined = True
                pending.append(node.outputs[0])
            else:
                raise _Declined(f"{node.op_type} ({node.name}) stands behind it")
    if len({layer.weight for layer, _ in changes.columns}) < len(changes.columns):
        raise _Declined("a layer reads it twice")


def _moves_on(node: ir.Node, value: ir.Value, factors: _Factors) -> bool:
    once = sum(given is value for given in node.inputs) == 1
    return once and passes_scale(node, factors.direct) and (node.op_type == "Concat" or node.inputs[0] is value)


def _require_apart(graph: _Graph, concat: ir.Node, value: ir.Value, factors: _Factors) -> None:
    """Behind a Concat places are told by their atoms, which must not come there by a way without the factors too."""
    others = [given for given in concat.inputs if given is not None and given is not value]
    if any(np.isin(factors.atoms, label.atoms).any() for given in others for label in graph.labels.get(given, ())):
        raise _Declined(f"its channels come to {concat.op_type} ({concat.name}) by another way too")


def _require_sole(value: ir.Value) -> None:
    if len(value.uses()) != 1 or value.is_graph_output():
        raise _Declined(f"{value.name!r} is read elsewhere too")


def _require_own(layer: Linear, *others: ir.Value) -> None:
    _require_constants((layer.weight, *others), f"the weight of {layer.node.name}")


def _require_constants(values: Iterable[ir.Value | None], what: str = "what is added or normalised by") -> None:
    for value in values:
        if value is None or value.const_value is None or not value.is_initializer():
            raise _Declined(f"{what} is computed")
        if len(value.uses()) != 1 or value.is_graph_output():
            raise _Declined(f"{what} is shared")


def _apply(model: ir.Model, changes: _Changes) -> None:
    for layer, factors in changes.rows:
        _scale(layer, factors.reshape(layer.groups, -1, 1))
        if layer.bias is not None:
            bias = array_of(layer.bias)
            vector = to_vector(layer, np.broadcast_to(bias, _whole(bias, factors)).astype(np.float64)) * factors
            replace_constant(layer.bias, from_vector(layer, vector, np.broadcast_to(bias, _whole(bias, factors))))
    for layer, factors in changes.columns:
        taps = int(np.prod(layer.kernel))
        _scale(layer, np.repeat(factors.reshape(layer.groups, -1), taps, axis=1)[:, None, :])
    for node, index, axis, factors in changes.addends:
        _scale_addend(model.graph, node, index, factors.reshape(-1, *[1] * (-axis - 1)))
    for node, factors in changes.norm:
        for value in node.inputs[1:3]:
            assert value is not None
            replace_constant(value, array_of(value).astype(np.float64) * factors)


def _whole(bias: Array, factors: Array) -> tuple[int, ...]:
    """A bias of one number becomes one of many."""
    return bias.shape if bias.size == factors.size else (*bias.shape[:-1], factors.size)


def _scale(layer: Linear, factors: Array) -> None:
    weight = array_of(layer.weight)
    matrix = to_matrix(layer, weight.astype(np.float64)) * factors
    replace_constant(layer.weight, from_matrix(layer, matrix, weight.shape))


def _scale_addend(graph: ir.Graph, node: ir.Node, index: int, factors: Array) -> None:
    """An addend that was alike along the channels may get an axis more."""
    value = node.inputs[index]
    assert value is not None
    array = array_of(value)
    scaled = (array.astype(np.float64) * factors).astype(array.dtype)
    if scaled.shape == array.shape:
        replace_constant(value, scaled)
    else:
        node.replace_input_with(index, add_constant(graph, f"{value.name}.scaled", scaled, value.dtype))
        drop_unread([value])
