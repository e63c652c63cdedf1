"""Units to groups: those that lie in the same places are chosen among each other."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph import Array
from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Linear
from onnxprune.units import Classes, Units, classes_of


@dataclass(frozen=True, eq=False)
class Slot:
    """A labelled place: an activation, or (with `reader`) a constant; `contracted` where the reader sums over it.

    What `nothing` holds contributes nothing to that sum, or the reader's input `zero`; None: zero does. A constant may
    be computed from others.
    """

    value: ir.Value
    label: Label
    contracted: bool = False
    reader: ir.Node | None = None
    nothing: Array | None = None
    zero: int | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Units that lie in the same places; any subset can go, as many from each of `rows` where that is given.

    `writers` make the group's channels, `readers` sum over them; `names` are the tensors and nodes it runs through.
    """

    name: str
    units: Atoms
    rows: npt.NDArray[np.int64] | None
    writers: tuple[Linear, ...]
    readers: tuple[Linear, ...]
    names: frozenset[str]

    @property
    def width(self) -> int:
        """How many units it has."""
        return int(self.units.size)

    @property
    def row_count(self) -> int:
        """How many rows must lose equally many; 1 where the choice is free."""
        return 1 if self.rows is None else int(self.rows.max()) + 1


@dataclass(frozen=True)
class Closed:
    """Atoms that stay, and why; `width` counts what would go together."""

    name: str
    width: int
    reason: str


SINGLE = "all its channels go together, so none can go alone"


def group_units(
    units: Units, raw: Sequence[Slot], slots: Sequence[Slot], linears: Sequence[Linear]
) -> tuple[tuple[Group, ...], tuple[Closed, ...]]:
    """Gather open units by the set of slots they lie in, and closed atoms by their reason and the slot that made them.

    Units of which none can go without all the others make no group; they stand among the closed.
    """
    makers = {linear.y: linear.node.name or "" for linear in linears}
    classes = classes_of(units.count, [slot.label.atoms for slot in slots])
    inside = _slots_of_first_units(classes, slots)
    layers = _Layers(units.count, linears)
    names = _taken_names()
    groups, single = [], []
    for own in _members(classes):
        here = inside[classes[own[0]]]
        group = _group(own, here, layers, units, names(_name(here, makers)))
        if group.width > group.row_count:
            groups.append(group)
        else:
            single.append(Closed(group.name, group.width, SINGLE))
    return tuple(groups), (*_closed(units, raw, makers), *single)


def _members(classes: Classes) -> list[Atoms]:
    """The units of each class, the classes in the order of their first unit."""
    order = np.argsort(classes, kind="stable")
    order = order[classes[order] >= 0]
    pieces = np.split(order, np.flatnonzero(np.diff(classes[order])) + 1) if order.size else []
    return sorted(pieces, key=lambda piece: int(piece[0]))


def _slots_of_first_units(classes: Classes, slots: Sequence[Slot]) -> dict[int, list[Slot]]:
    """The slots of each class, in graph order: those in which its first unit lies."""
    first = np.zeros(classes.size + 1, np.bool_)
    found = np.unique(classes, return_index=True)
    first[found[1][found[0] >= 0]] = True
    inside: dict[int, list[Slot]] = defaultdict(list)
    for slot in slots:
        atoms = slot.label.atoms
        for unit in np.unique(atoms[first[atoms]]).tolist():
            inside[int(classes[unit])].append(slot)
    return inside


class _Layers:
    """The linear layers by what they read and write."""

    def __init__(self, count: int, linears: Sequence[Linear]) -> None:
        self._mark = np.zeros(count + 1, np.bool_)
        self._reads: dict[ir.Value, list[Linear]] = defaultdict(list)
        self._writes: dict[ir.Value, list[Linear]] = defaultdict(list)
        for linear in linears:
            self._writes[linear.y].append(linear)
            if linear.refit:
                self._reads[linear.x].append(linear)

    def around(self, own: Atoms, values: Iterable[ir.Value]) -> tuple[tuple[Linear, ...], tuple[Linear, ...]]:
        """(writers, readers) of some units, which lie on these values."""
        self._mark[own] = True
        writers = [x for value in values for x in self._writes.get(value, ()) if self._mark[x.outputs].any()]
        readers = [x for value in values for x in self._reads.get(value, ()) if self._mark[x.features].any()]
        self._mark[own] = False
        return tuple(writers), tuple(readers)


def _group(own: Atoms, slots: list[Slot], layers: _Layers, units: Units, name: str) -> Group:
    values = dict.fromkeys(slot.value for slot in slots if slot.reader is None)
    writers, readers = layers.around(own, values)
    readers_of_slots = {slot.reader for slot in slots if slot.reader is not None and not slot.contracted}
    nodes = readers_of_slots | {slot.value.producer() for slot in slots}
    names = {slot.value.name for slot in slots if not slot.contracted} | {
        node.name for node in nodes if node is not None
    }
    cells = np.unique(units.cell[own], return_inverse=True)[1].astype(np.int64)
    rows = cells if cells.max() > 0 else None
    return Group(name, own, rows, writers, readers, frozenset(n for n in names if n))


def _name(slots: list[Slot], makers: dict[ir.Value, str]) -> str:
    """The layer that makes the group first, else the first tensor it lies on."""
    made = [makers[slot.value] for slot in slots if slot.value in makers]
    return made[0] if made else (slots[0].value.name or "")


def _taken_names() -> Callable[[str], str]:
    taken: dict[str, int] = {}

    def unique(name: str) -> str:
        taken[name] = taken.get(name, 0) + 1
        return name if taken[name] == 1 else f"{name}#{taken[name]}"

    return unique


def _closed(units: Units, raw: Sequence[Slot], makers: dict[ir.Value, str]) -> tuple[Closed, ...]:
    """Every layer whose output channels stay, wholly or in part, with the first reason for each."""
    found = []
    for slot in raw:
        if slot.value in makers and slot.reader is None:
            atoms = slot.label.atoms[slot.label.atoms != WHOLE]
            components = np.unique(units.component[atoms[units.of(atoms) == WHOLE]])
            reasons: dict[str, int] = {}
            for component in components.tolist():
                reasons[units.reasons[component]] = reasons.get(units.reasons[component], 0) + 1
            found += [Closed(makers[slot.value], width, reason) for reason, width in reasons.items()]
    return tuple(dict.fromkeys(found))
