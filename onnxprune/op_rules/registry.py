"""The table of operator rules, and what a rule sees of a node."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph import Array, array_of
from onnxprune.labels import WHOLE, Atoms, Label, Labels, Shape, atoms_of, touching
from onnxprune.op_rules.facts import Facts, Fixed, Follow, Lines, Param, Part, Settled, Size, Tie
from onnxprune.trace import Leaf, Place, Trace

Rule = Callable[["Op"], Facts]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


@dataclass(frozen=True, eq=False)
class Op:
    """A node as its rule sees it: labels and shapes of its inputs, and atoms to hand out."""

    node: ir.Node
    opset: int
    labelled: Mapping[ir.Value, Labels]
    trace: Trace
    fresh: Callable[[int], Atoms]
    opened: Collection[str] = ()
    computed: Collection[ir.Value] = ()
    asked: set[int] = field(default_factory=set)

    @property
    def domain(self) -> str:
        """The operator's domain, empty for ONNX's own."""
        return "" if self.node.domain == "ai.onnx" else self.node.domain

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        """Input `index`, which must be given."""
        value = self.node.inputs[index]
        assert value is not None
        return value

    def labels(self, index: int = 0) -> Labels:
        """The labels of an input; constants and missing inputs have none."""
        self.asked.add(index)
        return self.labelled.get(self.input(index), ()) if self.has(index) else ()

    def atoms(self, axis: int, index: int = 0) -> Atoms:
        """The atoms along one axis of an input, `WHOLE` where it carries no label of its own."""
        axis %= len(self.shape(index))
        return atoms_of(self.labels(index), axis, self.shape(index)[axis])

    def shape(self, index: int = 0) -> Shape:
        """The shape of an input in the traced run."""
        return self.trace.shape(self.input(index))

    def out_shape(self, index: int = 0) -> Shape:
        """The shape of an output in the traced run."""
        return self.trace.shape(self.node.outputs[index])

    def outputs(self) -> list[int]:
        """The indices of the outputs that have a name."""
        return [i for i, value in enumerate(self.node.outputs) if value.name]

    def constant(self, index: int) -> bool:
        """Whether an input is a constant of the model, or computed from such alone."""
        return self.has(index) and (is_constant(self.input(index)) or self.input(index) in self.computed)

    def array(self, index: int) -> Array | None:
        """The contents of an initializer; None where the input is missing or computed."""
        return array_of(self.input(index)) if self.has(index) and is_constant(self.input(index)) else None

    def activations(self) -> list[int]:
        """The indices of the inputs that are computed."""
        return [i for i in range(len(self.node.inputs)) if self.has(i) and not self.constant(i)]

    def ints(self, index: int) -> npt.NDArray[np.int64] | None:
        """The integers at an input: a constant, or what the traced run computed there."""
        return self.trace.integers(self.input(index)) if self.has(index) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the default."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def axes(self, index: int) -> list[int] | None:
        """The `axes` of a node, from attribute or input `index`, made non-negative for input 0; None if not given."""
        given = self.attr("axes")
        values: Iterable[int] | None = given if given is not None else self.ints(index)
        return None if values is None else [int(a) % len(self.shape()) for a in values]


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initializer."""
    return value.is_initializer()


def fix(labels: Labels, reason: str) -> Facts:
    """Fix every atom of these labels."""
    for label in labels:
        yield Fixed(label.atoms, reason)


def unasked(op: Op) -> Facts:
    """Fix the labels of inputs behind the first that a rule did not ask for: to it they are settings."""
    for index in range(1, len(op.node.inputs)):
        if index not in op.asked:
            yield from fix(op.labels(index), f"{op.node.op_type} takes it as a setting")


def stays_whole(label: Label, axis: int) -> Tie:
    """What a factored label loses, it loses along its other axes: all positions of `axis` go together."""
    lines = np.moveaxis(label.atoms, label.axes.index(axis), 0)
    return Tie(np.broadcast_to(lines[:1], lines[1:].shape), lines[1:])


def hold(labels: Labels, axes: Collection[int], reason: str) -> Facts:
    """Let nothing go along these axes: a label that lies on others too may still lose whole lines of those."""
    for label in touching(labels, axes):
        held = [axis for axis in label.axes if axis in axes]
        if len(held) == len(label.axes):
            yield Fixed(label.atoms, reason)
        else:
            yield from (stays_whole(label, axis) for axis in held)


def averaged(op: "Op", axes: Collection[int], reason: str, given: Labels | None = None) -> Facts:
    """Hold what statistics are taken over, unless the user opened that: then they are of what stays.

    `given` are the labels of what is summed up, if that is not the first input itself but has its shape.
    """
    labels = op.labels() if given is None else given
    if "normalised" in op.opened:
        yield from (Part(label) for label in touching(labels, axes))
    else:
        yield from hold(labels, axes, f"{reason} (--open normalised lets it go)")


def without(labels: Labels, axes: Collection[int]) -> Labels:
    """Labels that are held along these axes, as they lie on the others; those that lie on no others are left out."""
    found = []
    for label in labels:
        index = tuple(0 if axis in axes else slice(None) for axis in label.axes)
        left = tuple(axis for axis in label.axes if axis not in axes)
        found += [Label(left, label.atoms[index])] if left else []
    return tuple(found)


def line(op: "Op", label: Label, axis: int) -> tuple[Atoms, Facts]:
    """What stands for each position along one axis of a label, and the fact that says so."""
    if label.axes == (axis,):
        return label.atoms, iter(())
    place = label.axes.index(axis)
    atoms = op.fresh(label.atoms.shape[place])
    return atoms, iter((Lines(label, place, atoms),))


def sliced_along(op: "Op", index: int, label: Label, spans: Sequence[int], shift: int) -> Facts:
    """The constant at input `index` lies along the axes `spans` of a label, which are `shift` less in its own count."""
    varying = tuple(slice(None) if axis in spans else 0 for axis in label.axes)
    own = tuple(axis - shift for axis in spans)
    if len(spans) == len(label.axes) or _same_across(label.atoms, varying):
        yield Param(index, Label(own, label.atoms[varying]))
    elif len(spans) == 1:
        atoms, facts = line(op, label, spans[0])
        yield from facts
        yield Param(index, Label(own, atoms))
    else:
        yield Fixed(label.atoms, f"{op.node.op_type} broadcasts a constant over part of its axes")


def _same_across(atoms: Atoms, index: tuple[slice | int, ...]) -> bool:
    """Whether the atoms repeat over the axes that `index` pins."""
    pinned = tuple(slice(0, 1) if isinstance(i, int) else i for i in index)
    return bool(np.array_equal(atoms, np.broadcast_to(atoms[pinned], atoms.shape)))


def cut(label: Label, axis: int, where: slice) -> Label:
    """The part of a label at some positions of one of its axes."""
    index = tuple(where if a == axis else slice(None) for a in label.axes)
    return Label(label.axes, label.atoms[index])


def follows(op: Op, index: int, element: int, label: Label, axis: int = 0, upto: int | None = None) -> Facts:
    """Element `element` of the integer list at input `index` counts a label's positions (the first `upto` of them).

    It is rewritten where it is a constant, or stands alone and is computed from labelled sizes only; left to follow
    by itself where it is the size of these very channels elsewhere, or proportional to a labelled size; else the label
    is fixed. A constant that holds another number (0 or −1 in a Reshape, 1 in an Expand) is left alone, unless a count
    is asked for.
    """
    wanted = int(label.atoms.shape[axis]) if upto is None else upto
    origin = op.trace.origin(op.input(index), element)
    if origin is not None and not origin.leaves and origin.place is not None and origin.direct:
        if origin.current == wanted or upto is not None:
            yield _size(op, index, origin.place, label, axis, upto)
        return
    sources = [labelled_axis(op.labelled, leaf) for leaf in origin.leaves] if origin is not None else []
    known = [source for source in sources if source is not None]
    exact = upto is not None or (origin is not None and origin.current == wanted)
    itself = origin is not None and origin.direct and len(known) == 1 and _same_atoms(known[0][0], label)
    if origin is not None and origin.place and not itself and exact and len(known) == len(sources):
        yield Settled(index, element)
        yield _size(op, index, origin.place, label, axis, upto, (origin.current,))
    elif origin is not None and origin.proportional and len(known) == 1 and origin.current == wanted:
        yield Settled(index, element)
        yield Follow(known[0], (label, axis), wanted, f"its size is computed from that of {origin.leaves[0][0].name!r}")
    else:
        where = op.input(index).name
        yield Fixed(label.atoms, f"its size is computed at run time in {where!r}, in a way no rule follows")


def _same_atoms(one: Label, other: Label) -> bool:
    return np.array_equal(np.unique(one.atoms), np.unique(other.atoms))


def _size(
    op: Op, index: int, at: Place, label: Label, axis: int, upto: int | None, current: tuple[int, ...] = ()
) -> Size:
    node, place = (op.node, index) if at.node is None else (at.node, at.place)
    return Size(node, place, at.element, label, axis, upto, current)


def labelled_axis(labelled: Mapping[ir.Value, Labels], leaf: Leaf) -> tuple[Label, int] | None:
    """The label that lies on an axis of a value, and which of the label's axes that is."""
    value, axis = leaf
    found = [label for label in labelled.get(value, ()) if axis in label.axes]
    return (found[0], found[0].axes.index(axis)) if found else None


def any_label(labels: Labels) -> bool:
    """Whether any position of these labels can go."""
    return any(bool(np.any(label.atoms != WHOLE)) for label in labels)
