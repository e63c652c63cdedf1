"""Channel atoms to groups: run the operator rules over the graph, join what is tied, and say what can go.

The rules give labels and facts; here they are collected once, in graph order, and resolved all together with
connected components, so no result depends on the order in which ties are met.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.grouping import Closed, Group, Slot, group_units
from onnxprune.labels import Atoms, Label, Labels
from onnxprune.op_rules import RULES, Op
from onnxprune.op_rules.facts import Balanced, Fact, Fixed, Linear, Out, Param, Product, Size, Tie
from onnxprune.trace import Trace
from onnxprune.units import Units, resolve

Keep = npt.NDArray[np.bool_]


@dataclass(eq=False)
class Ledger:
    """All that the rules said. Atom numbers index the ledger's own atoms."""

    count: int = 0
    labels: dict[ir.Value, Labels] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    ties: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    balanced: list[Balanced] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
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
            self.slots.append(Slot(_given(node, fact.index), fact.label, fact.contracted, node))
        elif isinstance(fact, Tie):
            self.ties.append((fact.left.reshape(-1), fact.right.reshape(-1)))
        else:
            self._file(fact)

    def _file(self, fact: Fixed | Balanced | Size | Linear | Product) -> None:
        lists: dict[type, list[object]] = {
            Fixed: self.fixed, Balanced: self.balanced, Size: self.sizes, Linear: self.linears, Product: self.products
        }  # type: ignore[dict-item]  # fmt: skip
        lists[type(fact)].append(fact)


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


@dataclass(frozen=True, eq=False)
class Analysis:
    """What can go from a model. Labels hold unit numbers here: atoms that go together share one, `WHOLE` stays.

    A choice is a boolean array `keep` with one entry a unit and a last one, always true, for `WHOLE`.
    """

    model: ir.Model
    trace: Trace
    units: int
    groups: tuple[Group, ...]
    closed: tuple[Closed, ...]
    slots: tuple[Slot, ...]
    sizes: tuple[Size, ...]
    linears: tuple[Linear, ...]
    products: tuple[Product, ...]

    def keep_all(self) -> Keep:
        """The choice that removes nothing."""
        return np.ones(self.units + 1, np.bool_)

    def keep_without(self, removed: Mapping[str, Iterable[int]]) -> Keep:
        """The choice that removes these positions (0 … width−1) of these groups, by group name."""
        keep = self.keep_all()
        by_name = {group.name: group for group in self.groups}
        for name, positions in removed.items():
            keep[by_name[name].units[np.asarray(list(positions), np.int64)]] = False
        return keep

    def param_slots(self) -> Mapping[ir.Value, list[Slot]]:
        """The slots of each constant."""
        found: dict[ir.Value, list[Slot]] = defaultdict(list)
        for slot in self.slots:
            if slot.reader is not None:
                found[slot.value].append(slot)
        return found


def analyse(model: ir.Model, trace: Trace) -> Analysis:
    """Find the groups of a normalised model.

    Never raises on an unknown operator: that is a barrier, and its reason stands in `closed`.
    """
    ledger = _collect(model, trace)
    units = resolve(ledger.count, ledger.ties, ledger.fixed, [s.label.atoms for s in ledger.slots], ledger.balanced, ledger.sizes)
    slots = tuple(Slot(s.value, units.label(s.label), s.contracted, s.reader) for s in ledger.slots)
    linears = tuple(_renumbered(linear, units) for linear in ledger.linears)
    sizes = tuple(Size(s.node, s.place, s.element, units.label(s.label), s.axis, s.current) for s in ledger.sizes)
    groups, closed = group_units(units, ledger.slots, slots, linears)
    return Analysis(model, trace, units.count, groups, closed, slots, sizes, linears, tuple(ledger.products))


def _renumbered(linear: Linear, units: Units) -> Linear:
    return Linear(
        linear.node, linear.kind, linear.x, linear.weight, linear.bias, linear.y, linear.groups,
        units.of(linear.features), units.of(linear.outputs), linear.macs, linear.refit,
    )  # fmt: skip


def _collect(model: ir.Model, trace: Trace) -> Ledger:
    ledger = Ledger()
    opsets = model.opset_imports
    for node in model.graph:
        for fact in _facts(node, opsets, ledger, trace):
            ledger.enter(node, fact)
    for value in model.graph.outputs:
        _fix_all(ledger, ledger.labels.get(value, ()), "it is an output of the model")
    _join_shared_constants(model, ledger)
    return ledger


def _facts(node: ir.Node, opsets: Mapping[str, int], ledger: Ledger, trace: Trace) -> Iterable[Fact]:
    known = RULES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    captured = [labels for value in _captured(node) for labels in ledger.labels.get(value, ())]
    if known is None or captured or not all(trace.knows(value) for value in values):
        given = [label for value in node.inputs if value is not None for label in ledger.labels.get(value, ())]
        reason = f"{node.op_type} ({node.name}) has no rule" if not captured else f"the body of {node.name} reads it"
        return [Fixed(label.atoms, reason) for label in (*given, *captured)]
    return known(Op(node, opsets.get(node.domain, opsets.get("", 1)), ledger.labels, trace, ledger.fresh))


def _captured(node: ir.Node) -> Iterable[ir.Value]:
    """The outer values that the bodies of a control-flow node read."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from (v for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()) for v in inner.inputs if v is not None)
            yield from attribute.as_graph().outputs


def _fix_all(ledger: Ledger, labels: Labels, reason: str) -> None:
    ledger.fixed += [Fixed(label.atoms, reason) for label in labels]


def _join_shared_constants(model: ir.Model, ledger: Ledger) -> None:
    """A constant that several nodes read is sliced once: its uses go together, or it stays whole."""
    by_value: dict[ir.Value, list[Slot]] = defaultdict(list)
    for slot in ledger.slots:
        if slot.reader is not None:
            by_value[slot.value].append(slot)
    captured = {value for node in model.graph for value in _captured(node)}
    for value, slots in by_value.items():
        readers = {node for node, _ in value.uses()}
        bare = len(readers) > len({slot.reader for slot in slots}) or value in captured or value.is_graph_output()
        for first, slot in ((slots[0], s) for s in slots):
            _join_uses(ledger, value, first, slot, slots, bare, len(readers))


def _join_uses(ledger: Ledger, value: ir.Value, first: Slot, slot: Slot, slots: list[Slot], bare: bool, readers: int) -> None:
    if bare:
        ledger.fixed.append(Fixed(slot.label.atoms, f"{value.name!r} is also read where its channels are not known"))
        return
    alike = [other for other in slots if other.label.axes == slot.label.axes]
    if len({other.reader for other in alike}) < readers:
        ledger.fixed.append(Fixed(slot.label.atoms, f"{value.name!r} is read in two ways"))
    elif alike[0] is not slot:
        ledger.ties.append((alike[0].label.atoms.reshape(-1), slot.label.atoms.reshape(-1)))


__all__ = ["Analysis", "Closed", "Group", "Keep", "Label", "Slot", "analyse"]
