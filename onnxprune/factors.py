"""Axes spread over several (heads × head_dim): which lines of such a grid go together, in all grids that share them.

A grid that loses anything but whole lines is no tensor any more. A *direction* takes one axis of a grid, joins what
its lines share with other grids until each of those loses whole lines too, and so cuts the units into blocks that may
go one by one. One grid may be cut along several axes (whole heads, and the same positions of every head): a unit is
then gone if any of its blocks is, and what stays is a grid again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from onnxprune.labels import WHOLE, Atoms

Line = tuple[int, int]
"""A grid, by its number, and one of its axes."""
NONE = -1
"""The block of a unit that was not met yet."""


@dataclass(frozen=True, eq=False)
class Grid:
    """What lies on the axes of a factored label, and vectors (axis, atoms) that stand for the lines along an axis."""

    cells: Atoms
    standing: tuple[tuple[int, Atoms], ...] = ()

    def along(self, axis: int) -> Atoms:
        """(positions, …) what goes with each line: its cells, and what stands for it."""
        lines = np.moveaxis(self.cells, axis, 0).reshape(self.cells.shape[axis], -1)
        return np.concatenate([lines, *(atoms[:, None] for a, atoms in self.standing if a == axis)], axis=1)


@dataclass(frozen=True, eq=False)
class Direction:
    """Blocks that may go one by one: the block of each of `units`, `WHOLE` where it stays; `lines` are what is cut."""

    units: Atoms
    block: Atoms
    count: int
    lines: frozenset[Line]


def directions(grids: Sequence[Grid]) -> list[Direction]:
    """Every way to cut grids of units into more than one block."""
    search = _Search(grids)
    used: set[Line] = set()
    found: list[Direction] = []
    for line in ((g, axis) for g, grid in enumerate(grids) for axis in range(grid.cells.ndim)):
        if line not in used:
            direction = search.grown(line)
            used |= {line} if direction is None else direction.lines
            found += [direction] if direction is not None and direction.count > 1 else []
    return found


class _Search:
    """The grids, and which of them hold each unit."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self._grids = grids
        held = [_all_of(grid) for grid in grids]
        self._units = 1 + max((int(units.max(initial=WHOLE)) for units in held), default=WHOLE)
        unit = np.concatenate(held or [np.empty(0, np.int64)])
        grid = np.repeat(np.arange(len(grids)), [units.size for units in held])
        self._held = csr_array((np.ones(unit.size, np.bool_), (unit, grid)), shape=(self._units, len(grids)))

    def grown(self, seed: Line) -> Direction | None:
        """Take in every grid that shares a unit, along the axis that leaves most blocks; None where none will do."""
        blocks, chosen, waiting = _Blocks(self._units), dict[int, int](), [seed[0]]
        while waiting:
            number = waiting.pop(0)
            axes = [seed] if number == seed[0] and not chosen else self._axes(number, blocks.covered)
            if not axes:
                return None
            tried = [(axis, blocks.joining(self._grids[number].along(axis))) for _, axis in axes]
            chosen[number], join = max(tried, key=lambda one: one[1].count)
            new = blocks.join(join)
            near = np.unique(self._held[new].indices).tolist() if new.size else []
            waiting += [other for other in near if other not in chosen and other not in waiting]
        if any(line not in self._axes(line[0], blocks.covered) for line in chosen.items()):
            return None
        return Direction(*blocks.numbered(), frozenset(chosen.items()))

    def _axes(self, number: int, covered: npt.NDArray[np.bool_]) -> list[Line]:
        """The axes a grid may be cut along: where something goes that stands for lines of one, that one alone."""
        grid = self._grids[number]
        forced = {axis for axis, atoms in grid.standing if np.any(covered[atoms])}
        axes = forced or range(grid.cells.ndim)
        return [(number, axis) for axis in axes] if len(forced) < 2 else []


def _all_of(grid: Grid) -> Atoms:
    """The units on a grid and those that stand for lines of it, each once."""
    units = np.unique(np.concatenate([grid.cells.reshape(-1), *(atoms for _, atoms in grid.standing)]))
    own: Atoms = units[units != WHOLE]
    return own


@dataclass(frozen=True, eq=False)
class _Join:
    """What some lines would join: for each unit or block in them its component, and how many blocks there are then."""

    units: Atoms
    fresh: npt.NDArray[np.bool_]
    component: Atoms
    stays: npt.NDArray[np.bool_]
    count: int


class _Blocks:
    """Blocks of the units met so far; block 0 is what stays. Blocks that are joined get a new number.

    So one more grid takes as long as it is large, however many there were before it.
    """

    def __init__(self, units: int) -> None:
        self._block = np.full(units + 1, NONE, np.int64)
        self._block[WHOLE] = 0
        self._later = np.zeros(1, np.int64)
        self._count = 0

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Which units were met; the last entry, of what stays, is false."""
        met: npt.NDArray[np.bool_] = self._block != NONE
        met[WHOLE] = False
        return met

    def joining(self, along: Atoms) -> _Join:
        """What lines (positions, …) of units would join."""
        units, where = np.unique(along, return_inverse=True)
        block = self._of(units)
        fresh = block == NONE
        nodes, index = np.unique(np.where(fresh, self._later.size + units, block), return_inverse=True)
        first = nodes.size + np.arange(len(along))
        ends = np.repeat(first, along.shape[1]), index[where.reshape(-1)]
        size = nodes.size + len(along)
        graph = coo_array((np.ones(along.size, np.bool_), ends), shape=(size, size))
        count, component = connected_components(graph, directed=False)
        stays = np.zeros(count, np.bool_)
        stays[component[: nodes.size][nodes == 0]] = True
        old = int(np.count_nonzero((nodes > 0) & (nodes < self._later.size)))
        return _Join(units, fresh, component[index], stays, self._count - old + int(np.count_nonzero(~stays)))

    def join(self, join: _Join) -> Atoms:
        """Join it, and tell which units are new."""
        numbers = np.where(join.stays, 0, self._later.size + np.arange(join.stays.size))
        old = self._of(join.units[~join.fresh])
        self._later = np.concatenate([self._later, np.arange(self._later.size, self._later.size + join.stays.size)])
        self._later[old] = numbers[join.component[~join.fresh]]
        new = join.units[join.fresh]
        self._block[new] = numbers[join.component[join.fresh]]
        self._count = join.count
        return new

    def numbered(self) -> tuple[Atoms, Atoms, int]:
        """The units, the block of each by its first unit (`WHOLE` where something in it stays), and how many."""
        units = np.flatnonzero(self.covered)
        own = self._of(units)
        kept, first = np.unique(own[own != 0], return_index=True)
        number = np.argsort(np.argsort(first))
        inside = np.searchsorted(kept, own).clip(0, max(kept.size - 1, 0))
        return units, np.where(own == 0, WHOLE, number[inside]) if kept.size else own * 0 + WHOLE, kept.size

    def _of(self, units: Atoms) -> Atoms:
        """The block of each unit as it is now, `NONE` where it is new."""
        block = self._block[units]
        met = block != NONE
        now = block[met]
        while not np.array_equal(later := self._later[now], now):
            now = later
        self._block[units[met]] = now
        block[met] = now
        return block
