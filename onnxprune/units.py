"""Atoms to units: what is tied goes together, what is fixed stays; and units to blocks that may go one by one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.factors import Direction, Grid, directions
from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Balanced, Fixed, Follow, Lines, Size

Ties = list[tuple[Atoms, Atoms]]
Classes = npt.NDArray[np.int64]
SPLIT = "it goes together with positions that carry no prunable channel"
CROSSED = "it is spread over several axes, and no other tensor on them can lose the same lines"


@dataclass(frozen=True, eq=False)
class Constraints:
    """What restricts the choice of atoms: all that the rules said but the places themselves."""

    ties: Sequence[tuple[Atoms, Atoms]]
    fixed: Sequence[Fixed]
    balanced: Sequence[Balanced] = ()
    sizes: Sequence[Size] = ()
    follows: Sequence[Follow] = ()
    lines: Sequence[Lines] = ()


@dataclass(frozen=True, eq=False)
class Units:
    """The unit of each atom, `WHOLE` for those that stay; `component` and `reasons` tell why they do.

    `cell` numbers, for each unit, the row that it lies in of the grouped convolutions: among the units that lie in
    the same places, equally many must go from each cell. What is chosen are blocks of units: each of `levels` gives
    the block of every unit, `WHOLE` where it has none there. A unit on a factored axis lies in several: it goes with
    any of them. `source` tells of which direction a block is (−1: none), `cuts` a grid and axis that each one cuts.
    """

    count: int
    unit: Atoms
    component: Atoms
    reasons: dict[int, str]
    cell: npt.NDArray[np.uint64]
    levels: tuple[Atoms, ...] = ()
    source: Atoms = field(default_factory=lambda: np.empty(0, np.int64))
    cuts: tuple[tuple[Atoms, int], ...] = ()

    def of(self, atoms: Atoms) -> Atoms:
        """The units of some atoms."""
        return self.unit[atoms]  # the last entry stands for WHOLE

    def label(self, label: Label) -> Label:
        """A label that holds units instead of atoms."""
        return Label(label.axes, self.of(label.atoms))


def join(count: int, ties: Ties, fixed: Sequence[Fixed]) -> Units:
    """Units of the atoms that are tied, and those that a tie to a fixed atom or to no atom at all closes."""
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


def in_rounds(arrays: Iterable[Atoms], find: Callable[[Atoms, Units], Ties], units: Units) -> Ties:
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


def new_ties(left: Atoms, right: Atoms, units: Units) -> Ties:
    """The tie of two arrays, or nothing where they go together already."""
    return [] if np.array_equal(units.of(left), units.of(right)) else [(left.reshape(-1), right.reshape(-1))]


def whole_along(atoms: Atoms, axis: int, units: Units) -> Ties:
    """The ties that let an array lose nothing along one of its axes: all positions of it go together."""
    lines = np.moveaxis(atoms, axis, 0)
    return new_ties(np.broadcast_to(lines[:1], lines[1:].shape), lines[1:], units)


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


def with_levels(units: Units, arrays: Sequence[Atoms], lines: Sequence[Lines]) -> tuple[Units, list[Fixed]]:
    """Cut what lies on factored axes into blocks; units in none of them must stay."""
    grids, atoms = _grids(units, arrays, lines)
    found = directions(grids)
    inside = np.zeros(units.count + 1, np.bool_)
    for grid in grids:
        inside[grid.cells] = True
        for _, standing in grid.standing:
            inside[standing] = True
    plain = np.where(inside, WHOLE, np.cumsum(~inside) - 1)[: units.count]
    levels, source = _levels(plain, found)
    free = np.append(np.any([level != WHOLE for level in levels], axis=0), True)
    stuck = np.flatnonzero(~free[units.unit])
    cuts = tuple((atoms[min(d.lines)[0]], min(d.lines)[1]) for d in found)
    made = replace(units, levels=tuple(np.append(level, WHOLE) for level in levels), source=source, cuts=cuts)
    return made, [Fixed(stuck, CROSSED)] if stuck.size else []


def _grids(units: Units, arrays: Sequence[Atoms], lines: Sequence[Lines]) -> tuple[list[Grid], list[Atoms]]:
    """The distinct factored arrays of units, and for each an array of atoms that it comes from."""
    cells: dict[tuple[object, ...], Atoms] = {}
    standing: dict[tuple[object, ...], dict[tuple[int, bytes], Atoms]] = {}
    for atoms, axis, own in (*((a, 0, None) for a in arrays), *((f.label.atoms, f.axis, f.atoms) for f in lines)):
        here = units.of(atoms)
        key = (here.shape, here.tobytes())
        cells.setdefault(key, atoms)
        if own is not None:
            standing.setdefault(key, {})[axis, units.of(own).tobytes()] = units.of(own)
    grids = [
        Grid(units.of(atoms), tuple((axis, own) for (axis, _), own in standing.get(key, {}).items()))
        for key, atoms in cells.items()
    ]
    return grids, list(cells.values())


def _levels(plain: Atoms, found: Sequence[Direction]) -> tuple[list[Atoms], Atoms]:
    """Place the blocks of each direction on the first level that has room for all of its units."""
    levels, used = [plain], np.ones(plain.size, np.int64)
    first = int(plain.max(initial=-1)) + 1
    source = [np.full(first, -1)]
    for number, direction in enumerate(found):
        level = int(used[direction.units].max())
        while len(levels) <= level:
            levels.append(np.full(plain.size, WHOLE))
        levels[level][direction.units] = np.where(direction.block == WHOLE, WHOLE, direction.block + first)
        used[direction.units] = level + 1
        source.append(np.full(direction.count, number))
        first += direction.count
    return levels, np.concatenate(source)
