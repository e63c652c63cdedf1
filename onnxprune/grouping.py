"""Units to groups: those that lie in the same places are chosen among each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Balanced, Linear
from onnxprune.units import Units


@dataclass(frozen=True, eq=False)
class Slot:
    """A labelled place: an activation, or (with `reader`) a constant; `contracted` where the reader sums over it."""

    value: ir.Value
    label: Label
    contracted: bool = False
    reader: ir.Node | None = None


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


Pairs = npt.NDArray[np.int64]


def group_units(
    units: Units, raw: Sequence[Slot], slots: Sequence[Slot], linears: Sequence[Linear]
) -> tuple[tuple[Group, ...], tuple[Closed, ...]]:
    """Gather open units by the set of slots they lie in, and closed atoms by their reason and the slot that made them."""
    makers = {linear.y: linear.node.name or "" for linear in linears}
    pairs = _memberships([slot.label.atoms for slot in slots])
    members = _by_signature(units.count, pairs)
    names = _taken_names()
    groups = []
    for own in members:
        inside = [slots[i] for i in np.unique(pairs[np.isin(pairs[:, 0], own[:1])][:, 1])]
        groups.append(_group(own, inside, linears, units.balanced, names(_name(inside, makers))))
    return tuple(groups), _closed(units, raw, makers)


def _memberships(arrays: Sequence[Atoms]) -> Pairs:
    """(unit, slot) pairs, each once."""
    found = [np.unique(a[a != WHOLE]) for a in arrays]
    if not found:
        return np.empty((0, 2), np.int64)
    slot = np.repeat(np.arange(len(found)), [f.size for f in found])
    pairs = np.stack([np.concatenate(found), slot], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _by_signature(count: int, pairs: Pairs) -> list[Atoms]:
    """Units with the same slots, in the order of their first unit."""
    marks = np.random.default_rng(0).integers(1, 2**62, size=int(pairs[:, 1].max(initial=-1)) + 1, dtype=np.uint64)
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, pairs[:, 0], marks[pairs[:, 1]])
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.cumsum(np.bincount(inverse, minlength=len(first)))[:-1]
    pieces = np.split(order, bounds)
    return [np.sort(pieces[i]) for i in np.argsort(first) if signature[first[i]] != 0]


def _group(own: Atoms, slots: list[Slot], linears: Sequence[Linear], balanced: Sequence[Balanced], name: str) -> Group:
    values = {slot.value for slot in slots}
    ours = set(own.tolist())
    readers = tuple(x for x in linears if x.refit and x.x in values and not ours.isdisjoint(x.features.reshape(-1).tolist()))
    writers = tuple(x for x in linears if x.y in values and not ours.isdisjoint(x.outputs.reshape(-1).tolist()))
    nodes = {slot.reader for slot in slots if slot.reader is not None} | {slot.value.producer() for slot in slots}
    names = {value.name for value in values} | {node.name for node in nodes if node is not None}
    return Group(name, own, _rows(own, balanced), writers, readers, frozenset(n for n in names if n))


def _rows(own: Atoms, balanced: Sequence[Balanced]) -> npt.NDArray[np.int64] | None:
    """The finest partition that the grouped convolutions ask of these units; None where they ask for none."""
    cells = np.zeros(own.size, np.int64)
    for fact in balanced:
        where = np.stack([np.isin(own, row) for row in fact.atoms])
        if where.any():
            cells = np.unique(cells * (len(where) + 1) + where.argmax(axis=0) + where.any(axis=0), return_inverse=True)[1]
    return cells if cells.max(initial=0) > 0 else None


def _name(slots: list[Slot], makers: dict[ir.Value, str]) -> str:
    """The layer that makes the group first, else the first tensor it lies on."""
    made = [makers[slot.value] for slot in slots if slot.value in makers]
    return made[0] if made else (slots[0].value.name or "")


def _taken_names():  # type: ignore[no-untyped-def]
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
