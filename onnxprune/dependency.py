"""Channel atoms to groups: run the operator rules over the graph, join what is tied, and say what can go.

The rules give labels and facts; here they are collected once, in graph order, and resolved all together with
connected components, so no result depends on the order in which ties are met.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.branches import take_branches
from onnxprune.constants import computed_constants
from onnxprune.graph import bodies, callee, every_node, why_not_inlined
from onnxprune.grouping import Closed, Group, Slot, group_units
from onnxprune.labels import Atoms, Label, Labels
from onnxprune.op_rules import RULES, Op
from onnxprune.op_rules.barriers import BARRIERS
from onnxprune.op_rules.computed import sources
from onnxprune.op_rules.facts import (
    Balanced,
    Fact,
    Fixed,
    Follow,
    Index,
    Linear,
    Lines,
    Out,
    Param,
    Part,
    Product,
    Settled,
    Size,
    Summed,
    Tie,
)
from onnxprune.op_rules.registry import unasked
from onnxprune.resolve import resolve
from onnxprune.sizes import loose_sizes
from onnxprune.trace import Trace
from onnxprune.units import Constraints, Units

Keep = npt.NDArray[np.bool_]


@dataclass(eq=False)
class Ledger:
    """All that the rules said. Atom numbers index the ledger's own atoms."""

    count: int = 0
    labels: dict[ir.Value, Labels] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    summed: list[Slot] = field(default_factory=list)
    parts: list[Slot] = field(default_factory=list)
    ties: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)
    balanced: list[Balanced] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)
    settled: set[tuple[ir.Node, int, int]] = field(default_factory=set)
    indices: list[Index] = field(default_factory=list)
    linears: list[Linear] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)

    def fresh(self, count: int) -> Atoms:
        """New atoms, numbered on."""
        self.count += count
        return np.arange(self.count - count, self.count, dtype=np.int64)

    def enter(self, node: ir.Node, fact: Fact) -> None:
        """File one fact of a node's rule."""
        if isinstance(fact, Out):
            value = node.outputs[fact.index]
            self.labels[value] = fact.labels
            self.slots += [Slot(value, label) for label in fact.labels]
        elif isinstance(fact, Param):
            self.slots.append(Slot(_given(node, fact.index), fact.label, fact.contracted, node, fact.nothing))
        elif isinstance(fact, Summed):
            self.summed.append(Slot(_given(node, fact.index), fact.label, True, node, zero=fact.zero))
        elif isinstance(fact, Part):
            self.parts.append(Slot(_given(node, 0), fact.label, False, node))
        elif isinstance(fact, Lines):
            self.lines.append(fact)
        elif isinstance(fact, Settled):
            self.settled.add((node, fact.index, fact.element))
        else:
            self.file(fact)

    def file(self, fact: Fact) -> None:
        """File a fact that says itself what it is about."""
        match fact:
            case Tie():
                self.ties.append((fact.left.reshape(-1), fact.right.reshape(-1)))
            case Fixed():
                self.fixed.append(fact)
            case Balanced():
                self.balanced.append(fact)
            case Size():
                self.sizes.append(fact)
            case Follow():
                self.follows.append(fact)
            case Index():
                self.indices.append(fact)
            case Linear():
                self.linears.append(fact)
            case Product():
                self.products.append(fact)


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


@dataclass(frozen=True, eq=False)
class Analysis:
    """What can go from a model. Labels hold unit numbers here: atoms that go together share one, `WHOLE` stays.

    `summed` are the computed inputs that an operator sums over against another one, `parts` those that one takes
    statistics over. `raw` are the slots with their atoms, and `resolved` what became of those.
    A choice is a boolean array `keep` with one entry a unit and a last one, always true, for `WHOLE`.
    """

    model: ir.Model
    trace: Trace
    units: int
    groups: tuple[Group, ...]
    closed: tuple[Closed, ...]
    slots: tuple[Slot, ...]
    summed: tuple[Slot, ...]
    parts: tuple[Slot, ...]
    sizes: tuple[Size, ...]
    indices: tuple[Index, ...]
    linears: tuple[Linear, ...]
    products: tuple[Product, ...]
    raw: tuple[Slot, ...]
    resolved: Units

    @cached_property
    def flat(self) -> ir.Model:
        """The model with the branches in place that all calibration inputs take; the model itself where there is none.

        Names of nodes and values are those of the model.
        """
        return take_branches(self.model, self.trace.taken) if self.trace.taken else self.model

    @cached_property
    def idle(self) -> frozenset[ir.Node]:
        """The nodes in branches that no calibration input takes: an inference does not run them."""
        ifs = [(node, taken(node, self.trace)) for node in every_node(self.model)]
        others = (body for node, own in ifs if own is not None for body in bodies(node) if body is not own)
        return frozenset(node for body in others for node in body.all_nodes())

    def is_idle(self, group: Group) -> bool:
        """Whether all layers that make or read a group are in branches that no calibration input takes."""
        layers = {linear.node for linear in (*group.readers, *group.writers)}
        return bool(layers) and self.idle >= layers

    def keep_all(self) -> Keep:
        """The choice that removes nothing."""
        return np.ones(self.units + 1, np.bool_)

    def keep_without(self, removed: Mapping[str, Iterable[int]]) -> Keep:
        """The choice that removes these blocks (0 … width−1) of these groups, by group name."""
        keep = self.keep_all()
        by_name = {group.name: group for group in self.groups}
        for name, blocks in removed.items():
            stays = np.ones(by_name[name].width, np.bool_)
            stays[np.asarray(list(blocks), np.int64)] = False
            by_name[name].cut(keep, stays)
        return keep

    def param_slots(self) -> Mapping[ir.Value, list[Slot]]:
        """The slots of each constant."""
        found: dict[ir.Value, list[Slot]] = defaultdict(list)
        for slot in self.slots:
            if slot.reader is not None:
                found[slot.value].append(slot)
        return found


def analyse(model: ir.Model, trace: Trace, opened: Collection[str] = ()) -> Analysis:
    """Find the groups of a normalised model; `opened` names what is closed by default (`--open`).

    Never raises on an unknown operator: that is a barrier, and its reason stands in `closed`.
    """
    ledger = _collect(model, trace, opened)
    given = Constraints(ledger.ties, ledger.fixed, ledger.balanced, ledger.sizes, ledger.follows, ledger.lines)
    factored = [s.label.atoms for s in ledger.slots if s.reader is None and len(s.label.axes) > 1]
    units = resolve(ledger.count, given, factored, [s.label.atoms for s in ledger.slots])
    slots = tuple(replace(slot, label=units.label(slot.label)) for slot in ledger.slots)
    summed = tuple(replace(slot, label=units.label(slot.label)) for slot in ledger.summed)
    parts = tuple(replace(slot, label=units.label(slot.label)) for slot in ledger.parts)
    linears = tuple(replace(x, features=units.of(x.features), outputs=units.of(x.outputs)) for x in ledger.linears)
    sizes = tuple(replace(size, label=units.label(size.label)) for size in ledger.sizes)
    indices = tuple(replace(index, label=units.label(index.label)) for index in ledger.indices)
    products = [replace(x, label=units.label(x.label) if x.label else None) for x in ledger.products]
    groups, closed = group_units(units, ledger.slots, slots, linears)
    return Analysis(
        model,
        trace,
        units.count,
        groups,
        closed,
        slots,
        summed,
        parts,
        sizes,
        indices,
        linears,
        tuple(products),
        tuple(ledger.slots),
        units,
    )


def _collect(model: ir.Model, trace: Trace, opened: Collection[str]) -> Ledger:
    ledger = Ledger()
    _enter_nodes(model.graph, Seen(model, trace, opened, computed_constants(model)), ledger)
    for value in model.graph.outputs:
        _fix_all(ledger, ledger.labels.get(value, ()), "it is an output of the model")
    _join_shared_constants(ledger)
    for fact in loose_sizes(model, trace, ledger.labels, ledger.settled):
        ledger.file(fact)
    return ledger


@dataclass(frozen=True, eq=False)
class Seen:
    """What the rules are told besides the labels."""

    model: ir.Model
    trace: Trace
    opened: Collection[str]
    computed: Collection[ir.Value]

    def op(self, node: ir.Node, ledger: Ledger) -> Op:
        """The node as a rule sees it."""
        opset = self.model.opset_imports.get(node.domain, self.model.opset_imports.get("", 1))
        return Op(node, opset, ledger.labels, self.trace, ledger.fresh, self.opened, self.computed)


def _enter_nodes(graph: ir.Graph, seen: Seen, ledger: Ledger, body: bool = False) -> None:
    """File the facts of a graph's nodes, of each after those of the bodies in it.

    What a layer in a loop reads cannot be collected, so it cannot be solved again; the same in a branch not taken.
    """
    for node in graph:
        for inner in bodies(node):
            _enter_nodes(inner, seen, ledger, body or inner is not taken(node, seen.trace))
        facts = () if all(value in seen.computed for value in node.outputs) else facts_of(node, seen, ledger)
        for fact in facts:
            _enter(node, replace(fact, refit=False) if body and isinstance(fact, Linear) else fact, seen, ledger)


def taken(node: ir.Node, trace: Trace) -> ir.Graph | None:
    """The branch that an If takes on all calibration inputs."""
    name = trace.taken.get(node.name or "")
    return node.attributes[name].as_graph() if name is not None else None


def _enter(node: ir.Node, fact: Fact, seen: Seen, ledger: Ledger) -> None:
    """File a fact; what cuts a computed constant also cuts what that is computed from."""
    ledger.enter(node, fact)
    producer = _given(node, fact.index).producer() if isinstance(fact, Param) else None
    if producer is not None and isinstance(fact, Param):
        for behind in sources(seen.op(producer, ledger), fact):
            _enter(producer, behind, seen, ledger)


def facts_of(node: ir.Node, seen: Seen, ledger: Ledger) -> Iterable[Fact]:
    """What the rule of a node says, given the ledger's labels; that nothing can go where there is no rule."""
    op, known = seen.op(node, ledger), RULES.get(_key(node))
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    unknown = [value for value in values if not seen.trace.knows(value)]
    if known is None or unknown:
        ends = [value for body in bodies(node) for value in body.outputs]
        entering = (value for value in (*node.inputs, *ends) if value is not None)
        given = [label for value in entering for label in ledger.labels.get(value, ())]
        reason = (
            f"{node.op_type} ({node.name}) {_unruled(seen.model, node) if known is None else 'is not known to run'}"
        )
        return [Fixed(label.atoms, reason) for label in given]
    return chain(known(op), unasked(op))


def _unruled(model: ir.Model, node: ir.Node) -> str:
    function = callee(model, node)
    if function is None:
        return BARRIERS.get(_key(node), "has no rule")
    return why_not_inlined(model, function) or "is a local function"


def _key(node: ir.Node) -> tuple[str, str]:
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def _fix_all(ledger: Ledger, labels: Labels, reason: str) -> None:
    ledger.fixed += [Fixed(label.atoms, reason) for label in labels]


def _join_shared_constants(ledger: Ledger) -> None:
    """A constant that several nodes read is sliced once: its uses go together, or it stays whole."""
    by_value: dict[ir.Value, list[Slot]] = defaultdict(list)
    for slot in ledger.slots:
        if slot.reader is not None:
            by_value[slot.value].append(slot)
    for value, slots in by_value.items():
        readers = {node for node, _ in value.uses()}
        if readers != {slot.reader for slot in slots} or value.is_graph_output():
            reason = f"{value.name!r} is also read where its channels are not known"
            ledger.fixed += [Fixed(slot.label.atoms, reason) for slot in slots]
        elif len(slots) > 1:
            _join_uses(ledger, value, slots, len(readers))


def _join_uses(ledger: Ledger, value: ir.Value, slots: list[Slot], readers: int) -> None:
    """Tie the labels that lie on the same axes; where a reader has none there, or has others, they stay whole."""
    by_axes: dict[tuple[int, ...], list[Slot]] = defaultdict(list)
    for slot in slots:
        by_axes[slot.label.axes].append(slot)
    for alike in by_axes.values():
        if len({slot.reader for slot in alike}) < readers:
            ledger.fixed += [Fixed(slot.label.atoms, f"{value.name!r} is read in two ways") for slot in alike]
        first = alike[0].label.atoms.reshape(-1)
        ledger.ties += [(first, slot.label.atoms.reshape(-1)) for slot in alike[1:]]


__all__ = ["Analysis", "Closed", "Group", "Keep", "Label", "Slot", "analyse"]
