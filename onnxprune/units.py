"""Atoms to units: what is tied goes together, what is fixed stays, and factored or grouped axes stay rectangular."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Balanced, Fixed, Size

Ties = list[tuple[Atoms, Atoms]]


@dataclass(frozen=True, eq=False)
class Units:
    """The unit of each atom, `WHOLE` for those that stay; `component` and `reasons` tell why they do.

    `balanced` holds, as arrays of units, the rows that must lose equally many.
    """

    count: int
    unit: Atoms
    component: Atoms
    reasons: dict[int, str]
    balanced: tuple[Balanced, ...] = ()

    def of(self, atoms: Atoms) -> Atoms:
        """The units of some atoms."""
        return self.unit[atoms]  # the last entry stands for WHOLE

    def label(self, label: Label) -> Label:
        """A label that holds units instead of atoms."""
        return Label(label.axes, self.of(label.atoms))


def resolve(
    count: int, ties: Ties, fixed: Sequence[Fixed], labels: Iterable[Atoms], balanced: Sequence[Balanced], sizes: Sequence[Size]
) -> Units:
    """Join tied atoms; then tie further, until factored axes and grouped convolutions can lose units and stay whole."""
    ties, fixed = list(ties), list(fixed)
    units = _units(count, ties, fixed)
    factored = [atoms for atoms in labels if atoms.ndim > 1]
    for atoms in _distinct(factored, units):
        if extra := _product_ties(atoms, units):
            ties += extra
            units = _units(count, ties, fixed)
    while extra := [tie for fact in balanced for tie in _balance_ties(fact.atoms, units)]:
        ties += extra
        units = _units(count, ties, fixed)
    if conflicts := _size_conflicts(sizes, units):
        units = resolve(count, ties, [*fixed, *conflicts], factored, balanced, ())
    rows = tuple(Balanced(units.of(b.atoms), b.reason) for b in balanced if np.any(units.of(b.atoms) != WHOLE))
    return Units(units.count, units.unit, units.component, units.reasons, rows)


def _units(count: int, ties: Ties, fixed: Sequence[Fixed]) -> Units:
    left = np.concatenate([a for a, _ in ties] or [np.empty(0, np.int64)])
    right = np.concatenate([b for _, b in ties] or [np.empty(0, np.int64)])
    half = (left == WHOLE) != (right == WHOLE)
    stuck = np.maximum(left[half], right[half])
    both = (left != WHOLE) & (right != WHOLE)
    edges = coo_array((np.ones(both.sum(), np.bool_), (left[both], right[both])), shape=(count, count))
    total, found = connected_components(edges, directed=False) if count else (0, np.empty(0, np.int64))
    component = found.astype(np.int64)
    reasons: dict[int, str] = {}
    for fact in (*fixed, Fixed(stuck, "it goes together with positions that carry no prunable channel")):
        for c in np.unique(component[fact.atoms[fact.atoms != WHOLE]]):
            reasons.setdefault(int(c), fact.reason)
    open_ = np.ones(total, np.bool_)
    open_[list(reasons)] = False
    number = np.where(open_, np.cumsum(open_) - 1, WHOLE)
    return Units(int(open_.sum()), np.append(number[component], WHOLE), component, reasons)


def _distinct(arrays: list[Atoms], units: Units) -> list[Atoms]:
    """One of each set of factored arrays that hold the same units in the same places."""
    return list({(a.shape, units.of(a).tobytes()): a for a in arrays}.values())


def _product_ties(atoms: Atoms, units: Units) -> Ties:
    """Ties that leave one axis of a factored array free and the others whole: the axis with the most open positions."""
    here = units.of(atoms)
    if np.all(here == WHOLE):
        return []

    def open_positions(axis: int) -> int:
        lines = np.moveaxis(here, axis, 0).reshape(here.shape[axis], -1)
        whole = lines[np.all(lines != WHOLE, axis=1)]
        return len({tuple(np.unique(line)) for line in whole})

    axis = max(reversed(range(atoms.ndim)), key=open_positions)
    lines = np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)
    return _new_ties(np.repeat(lines[:, :1], lines.shape[1] - 1, axis=1), lines[:, 1:], units)


def _new_ties(left: Atoms, right: Atoms, units: Units) -> Ties:
    """The tie of two arrays, or nothing where they go together already."""
    return [] if np.array_equal(units.of(left), units.of(right)) else [(left.reshape(-1), right.reshape(-1))]


def _balance_ties(atoms: Atoms, units: Units) -> Ties:
    """Nothing where rows hold disjoint sets of equally many open units; else tie position i of every row."""
    here = units.of(atoms)
    rows = [np.unique(row[row != WHOLE], return_counts=True) for row in here]
    alike = len({row[0].size for row in rows}) == 1 and len({int(n) for row in rows for n in row[1]}) <= 1
    total = sum(row[0].size for row in rows)
    if alike and total == np.unique(np.concatenate([row[0] for row in rows])).size:
        return []
    return _new_ties(np.broadcast_to(atoms[:1], atoms[1:].shape), atoms[1:], units)


def _size_conflicts(sizes: Sequence[Size], units: Units) -> list[Fixed]:
    """Two labels that want to write different counts into one integer must stay whole."""
    seen: dict[tuple[object, ...], Label] = {}
    conflicts = []
    for size in sizes:
        first = seen.setdefault((size.node, size.place, size.element), size.label)
        if first is not size.label and not np.array_equal(np.sort(units.of(first.atoms), None), np.sort(units.of(size.label.atoms), None)):
            reason = f"{size.node.name} takes one number for two different widths"
            conflicts += [Fixed(first.atoms, reason), Fixed(size.label.atoms, reason)]
    return conflicts
