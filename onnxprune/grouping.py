"""Blocks of units to groups: those that lie in the same places are chosen among each other."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph import Array
from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Linear
from onnxprune.units import Classes, Units, classes_of

Mask = npt.NDArray[np.bool_]


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
    """Blocks of units that lie in the same places; any can go, as many from each of `rows` where that is given.

    `member` gives the block, 0 … width−1, of each of `units`: a channel is a block of one unit, a head one of many.
    `writers` make the group's channels, `readers` sum over them; `names` are the tensors and nodes it runs through.
    """

    name: str
    units: Atoms
    member: Atoms
    rows: npt.NDArray[np.int64] | None
    writers: tuple[Linear, ...]
    readers: tuple[Linear, ...]
    names: frozenset[str]

    @property
    def width(self) -> int:
        """How many blocks it has."""
        return int(self.member.max()) + 1

    @property
    def loops(self) -> tuple[Linear, ...]:
        """The writers that read what they made a step before, as well."""
        return tuple(linear for linear in self.writers if linear.x is linear.y)

    @property
    def row_count(self) -> int:
        """How many rows must lose equally many; 1 where the choice is free."""
        return 1 if self.rows is None else int(self.rows.max()) + 1

    def kept(self, keep: Mask) -> Mask:
        """(width,) which blocks stay: those of which any unit does, for the units may lie in other groups too."""
        stays = np.zeros(self.width, np.bool_)
        stays[self.member[keep[self.units]]] = True
        return stays

    def cut(self, keep: Mask, stays: Mask) -> None:
        """Take from `keep` the units of the blocks that do not stay; those of other groups are left alone."""
        keep[self.units] &= stays[self.member]

    def positions(self, count: int) -> Atoms:
        """(count + 1,) the block of each unit of the model, −1 for those of other groups and for what stays whole."""
        found = np.full(count + 1, -1, np.int64)
        found[self.units] = self.member
        return found


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
    """Gather open blocks by the set of slots they lie in, and closed atoms by their reason and the slot that made them.

    Blocks of which none can go without all the others make no group; they stand among the closed.
    """
    makers = {linear.y: linear.node.name or "" for linear in linears}
    layers = _Layers(units.count, linears)
    members = [found for level in units.levels for found in _level_members(level, slots)]
    names = _taken_names()
    groups: list[Group] = []
    single: list[tuple[Group, Closed]] = []
    for own, member, here in sorted(members, key=lambda one: int(one[0].min())):
        group = _group(own, member, here, layers, units, names(_name(here, makers)))
        if group.width > group.row_count:
            groups.append(group)
        else:
            single.append((group, Closed(group.name, group.width, SINGLE)))
    return tuple(groups), (*_closed(units, raw, makers), *_not_otherwise_open(single, groups, units.count))


def _not_otherwise_open(
    single: Iterable[tuple[Group, Closed]], groups: Iterable[Group], count: int
) -> Iterator[Closed]:
    """What cannot go block by block, and not along another axis either."""
    open_ = np.zeros(count, np.bool_)
    for group in groups:
        open_[group.units] = True
    yield from (closed for group, closed in single if not open_[group.units].all())


def _level_members(level: Atoms, slots: Sequence[Slot]) -> Iterator[tuple[Atoms, Atoms, list[Slot]]]:
    """The units of each class of a level's blocks, the block of each, and the slots they lie in."""
    if np.all(level == WHOLE):
        return
    first, count = int(level[level != WHOLE].min()), int(level.max()) + 1
    places = [np.where((own := level[slot.label.atoms]) == WHOLE, WHOLE, own - first) for slot in slots]
    classes = classes_of(count - first, places)
    inside = _slots_of_first_blocks(classes, slots, places)
    units = np.flatnonzero(level != WHOLE)
    block = level[units] - first
    order = units[np.lexsort((units, classes[block]))]
    own_class = classes[level[order] - first]
    for own in np.split(order, np.flatnonzero(np.diff(own_class)) + 1):
        number = int(classes[level[own[0]] - first])
        if number >= 0:
            yield own, np.unique(level[own], return_inverse=True)[1].astype(np.int64), inside[number]


def _slots_of_first_blocks(classes: Classes, slots: Sequence[Slot], places: Sequence[Atoms]) -> dict[int, list[Slot]]:
    """The slots of each class, in graph order: those in which its first block lies."""
    first = np.zeros(classes.size + 1, np.bool_)
    found = np.unique(classes, return_index=True)
    first[found[1][found[0] >= 0]] = True
    inside: dict[int, list[Slot]] = defaultdict(list)
    for slot, blocks in zip(slots, places, strict=True):
        for block in np.unique(blocks[first[blocks]]).tolist():
            inside[int(classes[block])].append(slot)
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


def _group(own: Atoms, member: Atoms, slots: list[Slot], layers: _Layers, units: Units, name: str) -> Group:
    values = dict.fromkeys(slot.value for slot in slots if slot.reader is None)
    writers, readers = layers.around(own, values)
    readers_of_slots = {slot.reader for slot in slots if slot.reader is not None and not slot.contracted}
    nodes = readers_of_slots | {slot.value.producer() for slot in slots}
    names = {slot.value.name for slot in slots if not slot.contracted} | {
        node.name for node in nodes if node is not None
    }
    firsts = own[np.unique(member, return_index=True)[1]]
    cells = np.unique(units.cell[firsts], return_inverse=True)[1].astype(np.int64)
    rows = cells if cells.max() > 0 else None
    return Group(name, own, member, rows, writers, readers, frozenset(n for n in names if n))


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
