"""The tail of an output: what computes without positions any more, between the last channels in space and the scores.

Found from the values that every path from the inputs to the output passes, their traced shapes and their labels.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxprune.dependency import Analysis
from onnxprune.graph import bodies, captured_values
from onnxprune.labels import Label, Shape
from onnxprune.op_rules.facts import Linear
from onnxprune.trace import SIZES
from onnxprune.weights import bias_behind

RANKS = (3, 4, 5)


@dataclass(frozen=True, eq=False)
class Tail:
    """What stands between `source`, channels (N, …) along `axis` in space, and `target`, the last layer's result.

    `outputs` are those of the model that end in this target, and `nodes` those that compute it from the source.
    """

    source: ir.Value
    axis: int
    target: ir.Value
    shape: Shape
    channels: int
    nodes: frozenset[ir.Node]
    outputs: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """How many numbers the last layer gives for an input."""
        return prod(self.shape[1:])


def find_tails(analysis: Analysis) -> tuple[list[Tail], dict[str, str]]:
    """The tails that one layer behind a pool can take the place of, and why the other outputs stay as they are."""
    paths = _Paths(analysis)
    found, reasons = dict[ir.Value, list[Tail]](), dict[str, str]()
    for output in analysis.model.graph.outputs:
        tail = _tail(paths, output)
        if isinstance(tail, Tail):
            found.setdefault(tail.target, []).append(tail)
        else:
            reasons[output.name or ""] = tail
    while shared := _also_read(paths, found, reasons):
        target, reason = shared
        reasons |= {name: reason for tail in found.pop(target) for name in tail.outputs}
    return [_joined(tails) for tails in found.values()], reasons


class _Paths:
    """Values that the inputs reach as numbers, not as sizes, and the layers on the way."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, graph = analysis, analysis.model.graph
        self.reached = {value for value in graph.inputs if not value.is_initializer()}
        for node in graph:
            if node.op_type not in SIZES and any(True for _ in self.read(node)):
                self.reached |= {value for value in node.outputs if value.name}
        self.layers: dict[ir.Node, list[Linear]] = {}
        for linear in analysis.linears:
            self.layers.setdefault(linear.node, []).append(linear)
        self.labels: dict[ir.Value, list[Label]] = {}
        for slot in analysis.raw:
            if slot.reader is None:
                self.labels.setdefault(slot.value, []).append(slot.label)

    def read(self, node: ir.Node) -> Iterator[ir.Value]:
        """The computed values that a node reads, those of its bodies among them."""
        return (v for v in (*node.inputs, *captured_values(node)) if v is not None and v in self.reached)

    def behind(self, value: ir.Value, stop: Collection[ir.Value] = ()) -> list[ir.Node]:
        """The nodes that compute a value, in the graph's order; none that `stop` is computed by alone."""
        found, pending = set[ir.Node](), [value]
        while pending:
            one = pending.pop()
            node = None if one in stop else one.producer()
            if node is not None and node not in found:
                found.add(node)
                pending += self.read(node)
        return [node for node in self.analysis.model.graph if node in found]

    def passed(self, way: Sequence[ir.Node], end: ir.Value) -> list[ir.Value]:
        """The values that every path to `end` passes, in order: alone still to be read, where they are known."""
        last = {value: place for place, node in enumerate(way) for value in self.read(node)} | {end: len(way)}
        live = {value for value in last if value.producer() is None}
        found = list(live) if len(live) == 1 else []
        for place, node in enumerate(way):
            live = {v for v in live if last[v] > place} | {v for v in node.outputs if v in last}
            if len(live) == 1 and not live <= set(found[-1:]):
                found += live
        return found

    def inside(self, node: ir.Node) -> list[Linear]:
        """The layers that a node is, or that the bodies in it hold."""
        nodes = [node, *(inner for body in bodies(node) for inner in body.all_nodes())]
        return [linear for one in nodes for linear in self.layers.get(one, [])]

    def with_bias(self, result: ir.Value) -> ir.Value:
        """What a layer gives together with its bias, where that is added behind it."""
        node = result.producer()
        kinds = {linear.kind for linear in self.layers.get(node, [])} if node is not None else set()
        if node is None or kinds != {"matmul"} or bias_behind(node) is None:
            return result
        return next(reader for reader, _ in result.uses()).outputs[0]

    def flat(self, value: ir.Value) -> bool:
        """Whether a value holds nothing but one row of numbers for each input."""
        shape = self.shape(value)
        return shape is not None and sum(size > 1 for size in shape[1:]) <= 1

    def shape(self, value: ir.Value) -> Shape | None:
        """The traced shape; None where it is not known."""
        return self.analysis.trace.shape(value) if self.analysis.trace.knows(value) else None

    def spatial(self, value: ir.Value) -> int | str:
        """The axis of the channels of a value that has positions beside them; or why they are not known."""
        shape, labels = self.shape(value), self.labels.get(value, [])
        if value.producer() is None:
            return f"no layer stands before it, it reads the input {value.name!r} itself"
        if shape is None or len(shape) not in RANKS or shape[0] != self.analysis.trace.batch:
            return f"{value.name!r} {list(shape or ())} is not (N, channels, positions …) in any order of the last axes"
        if len(labels) != 1 or len(labels[0].axes) != 1 or labels[0].axes[0] == 0:
            return f"which axis of {value.name!r} {list(shape)} holds channels is not known"
        return labels[0].axes[0]


def _tail(paths: _Paths, output: ir.Value) -> Tail | str:
    """The tail of one output, or why it has none that could be replaced."""
    if output.producer() is None:
        return "it is an input or a constant"
    way = paths.behind(output)
    passed = paths.passed(way, output)
    place = {value: number for number, node in enumerate(way) for value in node.outputs}
    last = max((number for number, node in enumerate(way) if paths.inside(node)), default=None)
    if last is None:
        return "no layer with a constant weight computes it"
    target = paths.with_bias(next(value for value in passed if place.get(value, -1) >= last))
    shape = paths.shape(target)
    if not paths.flat(target) or shape is None or shape[0] != paths.analysis.trace.batch or len(shape) < 2:
        return f"its last layers give {target.name!r} {list(shape or ())}, not one row of numbers for each input"
    before = [value for value in passed if place.get(value, -1) < place[target] and not paths.flat(value)]
    if not before:
        return "no value with positions is passed by all paths from the inputs to it"
    source = before[-1]
    axis = paths.spatial(source)
    return axis if isinstance(axis, str) else _checked(paths, output, source, axis, target)


def _checked(paths: _Paths, output: ir.Value, source: ir.Value, axis: int, target: ir.Value) -> Tail | str:
    """The tail between two values, if it is one and larger than what would take its place."""
    shape = paths.analysis.trace.shape
    nodes = paths.behind(target, {source})
    wide = [v for node in nodes for v in node.outputs if v in paths.reached and not paths.flat(v)]
    if wide:
        return f"{wide[0].name!r} behind {source.name!r} still has positions"
    tail = Tail(source, axis, target, shape(target), shape(source)[axis], frozenset(nodes), (output.name or "",))
    layers = [linear for node in nodes for linear in paths.inside(node)]
    if len(layers) == 1 and layers[0].features.size == tail.channels:
        return f"its head is one layer on the {tail.channels} channels of {source.name!r} already"
    read = {value for node in nodes for value in node.inputs if value is not None}
    own = sum(value.const_value.size for value in read if value.const_value is not None)
    if (new := (tail.channels + 1) * tail.numbers) >= own:
        return f"a new layer of {new} parameters would be no smaller than its tail, which has {own}"
    return tail


def _also_read(
    paths: _Paths, found: Mapping[ir.Value, Sequence[Tail]], reasons: Mapping[str, str]
) -> tuple[ir.Value, str] | None:
    """A target that an output of another tail, or one that stays, is computed from; and the reason to leave it."""
    ends = {value.name: value for value in paths.analysis.model.graph.outputs if value.name in reasons}
    ends |= {name: tail.source for tails in found.values() for tail in tails for name in tail.outputs}
    for target, tails in found.items():
        own = {name for tail in tails for name in tail.outputs}
        for name, end in ends.items():
            if name not in own and target.producer() in set(paths.behind(end)):
                return target, f"output {name!r} is computed from {target.name!r} as well"
    return None


def _joined(tails: Sequence[Tail]) -> Tail:
    """The one tail of several outputs."""
    first = tails[0]
    return Tail(
        first.source,
        first.axis,
        first.target,
        first.shape,
        first.channels,
        first.nodes,
        tuple(name for tail in tails for name in tail.outputs),
    )
