"""Atoms to units: what is tied goes together, what is fixed stays, and factored or grouped axes stay rectangular."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Balanced, Fixed, Follow, Size

Ties = list[tuple[Atoms, Atoms]]
Classes = npt.NDArray[np.int64]
SPLIT = "it goes together with positions that carry no prunable channel"


@dataclass(frozen=True, eq=False)
class Constraints:
    """What restricts the choice of atoms: all that the rules said but the places themselves."""

    ties: Sequence[tuple[Atoms, Atoms]]
    fixed: Sequence[Fixed]
    balanced: Sequence[Balanced] = ()
    sizes: Sequence[Size] = ()
    follows: Sequence[Follow] = ()


@dataclass(frozen=True, eq=False)
class Units:
    """The unit of each atom, `WHOLE` for those that stay; `component` and `reasons` tell why they do.

    `cell` numbers, for each unit, the row that it lies in of the grouped convolutions: among the units that lie in
    the same places, equally many must go from each cell.
    """

    count: int
    unit: Atoms
    component: Atoms
    reasons: dict[int, str]
    cell: npt.NDArray[np.uint64]

    def of(self, atoms: Atoms) -> Atoms:
        """The units of some atoms."""
        return self.unit[atoms]  # the last entry stands for WHOLE

    def label(self, label: Label) -> Label:
        """A label that holds units instead of atoms."""
        return Label(label.axes, self.of(label.atoms))


def resolve(count: int, given: Constraints, factored: Sequence[Atoms], places: Sequence[Atoms]) -> Units:
    """Join tied atoms; then tie further, until factored axes and grouped convolutions can lose units and stay whole.

    `factored` are the arrays of atoms of tensors that spread one axis over several, `places` those of all tensors.
    Ties and closures only grow, so this ends.
    """
    ties, fixed = list(given.ties), list(given.fixed)
    while True:
        units = _units(count, ties, fixed)
        extra = _round(factored, _product_ties, units)
        extra = extra or _balance_round(given.balanced, places, units)
        conflicts = [] if extra else [*_size_conflicts(given.sizes, units), *_follow_conflicts(given.follows, units)]
        if not extra and not conflicts:
            return _with_cells(units, given.balanced)
        ties += extra
        fixed += conflicts


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
    for fact in (*fixed, Fixed(stuck, SPLIT)):
        for c in np.unique(component[fact.atoms[fact.atoms != WHOLE]]).tolist():
            reasons.setdefault(c, fact.reason)
    open_ = np.ones(total, np.bool_)
    open_[list(reasons)] = False
    number = np.where(open_, np.cumsum(open_) - 1, WHOLE)
    size = int(open_.sum())
    return Units(size, np.append(number[component], WHOLE), component, reasons, np.zeros(size, np.uint64))


def _round(arrays: Iterable[Atoms], find: Callable[[Atoms, Units], Ties], units: Units) -> Ties:
    """The ties that arrays need, of those only that share no component: what one ties, the next must see first."""
    touched = np.zeros(units.component.max(initial=-1) + 1, np.bool_)
    found: Ties = []
    seen: set[tuple[object, ...]] = set()
    for atoms in arrays:
        here = units.of(atoms)
        key = (atoms.shape, here.tobytes())
        if key in seen or np.all(here == WHOLE):
            continue
        seen.add(key)
        own = units.component[atoms[atoms != WHOLE]]
        if not touched[own].any() and (ties := find(atoms, units)):
            touched[own] = True
            found += ties
    return found


def _product_ties(atoms: Atoms, units: Units) -> Ties:
    """Ties that leave one axis of a factored array free and the others whole: the axis with the most open positions."""
    here = units.of(atoms)

    def open_positions(axis: int) -> int:
        lines = np.moveaxis(here, axis, 0).reshape(here.shape[axis], -1)
        whole = np.sort(lines[np.all(lines != WHOLE, axis=1)], axis=1)
        return len(np.unique(whole, axis=0))

    axis = max(reversed(range(atoms.ndim)), key=open_positions)
    lines = np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)
    return _new_ties(np.repeat(lines[:, :1], lines.shape[1] - 1, axis=1), lines[:, 1:], units)


def _new_ties(left: Atoms, right: Atoms, units: Units) -> Ties:
    """The tie of two arrays, or nothing where they go together already."""
    return [] if np.array_equal(units.of(left), units.of(right)) else [(left.reshape(-1), right.reshape(-1))]


def classes_of(count: int, places: Sequence[Atoms]) -> Classes:
    """The class of each unit: units of one class lie in the same places, given as arrays of units; −1 where in none."""
    inside = [a[a != WHOLE] for a in places]
    unit = np.concatenate(inside or [np.empty(0, np.int64)])
    place = np.repeat(np.arange(len(inside)), [a.size for a in inside])
    pairs = np.unique(unit * max(len(inside), 1) + place)
    marks = np.random.default_rng(0).integers(1, 2**62, size=len(inside), dtype=np.uint64)
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, pairs // max(len(inside), 1), marks[pairs % max(len(inside), 1)])
    classes: Classes = np.unique(signature, return_inverse=True)[1].astype(np.int64)
    classes[signature == 0] = -1
    return classes


def _balance_round(balanced: Sequence[Balanced], places: Sequence[Atoms], units: Units) -> Ties:
    """The ties that let every class of units lose equally many from each row of each grouped convolution."""
    if not balanced or not units.count:
        return []
    classes = classes_of(units.count, [units.of(atoms) for atoms in places])
    arrays = [fact.atoms for fact in balanced]
    if ties := _round(arrays, lambda atoms, now: [] if _even(now.of(atoms), classes) else _row_ties(atoms, now), units):
        return ties
    uneven = _uneven_classes(_with_cells(units, balanced).cell, classes)
    crossing = [atoms for atoms in reversed(arrays) if np.isin(classes[_open(units.of(atoms))], uneven).any()]
    return next((ties for atoms in crossing if (ties := _row_ties(atoms, units))), [])


def _open(units: Atoms) -> Atoms:
    found: Atoms = units[units != WHOLE]
    return found


def _row_ties(atoms: Atoms, units: Units) -> Ties:
    """Position i of every row goes together."""
    return _new_ties(np.broadcast_to(atoms[:1], atoms[1:].shape), atoms[1:], units)


def _table(rows: Atoms) -> tuple[Atoms, npt.NDArray[np.int64]]:
    """The open units of a rows × positions array, and how often each lies in each row."""
    own, inverse = np.unique(rows, return_inverse=True)
    row = np.repeat(np.arange(rows.shape[0]), rows.shape[1])
    table = np.zeros((rows.shape[0], own.size), np.int64)
    np.add.at(table, (row, inverse.reshape(-1)), 1)
    return own[own != WHOLE], table[:, own != WHOLE]


def _even(rows: Atoms, classes: Classes) -> bool:
    """Whether each class has, in every row, equally many units of its own; units that all rows share do no harm."""
    own, table = _table(rows)
    single = ~np.all(table == table[:1], axis=0)
    own, table = own[single], table[:, single]
    if np.any((table > 0).sum(axis=0) > 1):
        return False
    for number in np.unique(classes[own]).tolist():
        mine = table[:, classes[own] == number]
        counts = (mine > 0).sum(axis=1)
        if np.any(counts != counts[0]) or np.unique(mine[mine > 0]).size > 1:
            return False
    return True


def _with_cells(units: Units, balanced: Sequence[Balanced]) -> Units:
    rng = np.random.default_rng(0)
    cell = np.zeros(units.count, np.uint64)
    for fact in balanced:
        own, table = _table(units.of(fact.atoms))
        single = ~np.all(table == table[:1], axis=0)
        marks: npt.NDArray[np.uint64] = rng.integers(1, 2**62, size=(table.shape[0],), dtype=np.uint64)
        rows: Atoms = table[:, single].argmax(axis=0)
        cell[own[single]] += marks[rows]
    return Units(units.count, units.unit, units.component, units.reasons, cell)


def _uneven_classes(cell: npt.NDArray[np.uint64], classes: Classes) -> Classes:
    """The classes whose cells hold different numbers of units: two partitions that do not nest."""
    cells = np.unique(cell, return_inverse=True)[1]
    pairs, counts = np.unique(np.stack([classes, cells]).astype(np.int64), axis=1, return_counts=True)
    least, most = np.full(classes.max() + 2, np.iinfo(np.int64).max), np.zeros(classes.max() + 2, np.int64)
    np.minimum.at(least, pairs[0], counts)
    np.maximum.at(most, pairs[0], counts)
    return np.flatnonzero((most > least)[:-1])


def positions(label: Label, axis: int, units: Units) -> Atoms:
    """The unit that takes each position along one axis of a label away; `WHOLE` where several lie on it."""
    here = units.of(label.atoms)
    lines = np.moveaxis(here, axis, 0).reshape(here.shape[axis], -1)
    return np.where(np.all(lines == lines[:, :1], axis=1), lines[:, 0], WHOLE)


def _size_conflicts(sizes: Sequence[Size], units: Units) -> list[Fixed]:
    """Two labels that want to write different counts into one integer must stay whole."""
    seen: dict[tuple[object, ...], tuple[Size, Atoms]] = {}
    conflicts = []
    for size in sizes:
        here = np.sort(_open(positions(size.label, size.axis, units)[: size.upto]))
        first, there = seen.setdefault((size.node, size.place, size.element), (size, here))
        if not np.array_equal(here, there):
            reason = f"{size.node.name} takes one number for two different widths"
            conflicts += [Fixed(first.label.atoms, reason), Fixed(size.label.atoms, reason)]
    return conflicts


def _follow_conflicts(follows: Sequence[Follow], units: Units) -> list[Fixed]:
    """A computed size is right only if each unit holds the same share of both axes."""
    conflicts = []
    for fact in follows:
        source, target = positions(*fact.source, units), positions(*fact.target, units)[: fact.upto]
        size = max(source.max(initial=0), target.max(initial=0)) + 1
        inside, outside = (np.bincount(_open(side), minlength=size) for side in (source, target))
        if not np.array_equal(inside * target.size, outside * source.size):
            conflicts += [Fixed(label.atoms, fact.reason) for label, _ in (fact.source, fact.target)]
    return conflicts
