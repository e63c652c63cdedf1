"""Axes spread over several (heads × head_dim): which lines of such a grid go together, in all grids that share them.

A grid that loses anything but whole lines is no tensor any more. A *direction* takes one axis of a grid, joins what
its lines share with other grids until each of those loses whole lines too, and so cuts the units into blocks that may
go one by one. One grid may be cut along several axes (whole heads, and the same positions of every head): a unit is
then gone if any of its blocks is, and what stays is a grid again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.labels import WHOLE, Atoms

Line = tuple[int, int]
"""A grid, by its number, and one of its axes."""
Edges = tuple[Atoms, Atoms]


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
        self._first = -2 - np.cumsum([0, *(max(grid.cells.shape) for grid in grids)])
        self._held: dict[int, list[int]] = defaultdict(list)
        for number, grid in enumerate(grids):
            own = np.concatenate([grid.cells.reshape(-1), *(atoms for _, atoms in grid.standing)])
            for unit in np.unique(own[own != WHOLE]).tolist():
                self._held[unit].append(number)

    def grown(self, seed: Line) -> Direction | None:
        """Take in every grid that shares a unit, along the axis that leaves most blocks; None where none will do."""
        chosen, covered, edges = {seed[0]: seed[1]}, self._units(seed), self._edges(seed)
        waiting = list(covered)
        while waiting:
            for number in (n for n in self._held[waiting.pop()] if n not in chosen):
                tried = [(line, _with(edges, self._edges(line))) for line in self._axes(number, covered)]
                if not tried:
                    return None
                line, edges = max(tried, key=lambda one: _count(one[1])) if len(tried) > 1 else tried[0]
                chosen[number] = line[1]
                new = self._units(line) - covered
                covered |= new
                waiting += new
        if any(line not in self._axes(line[0], covered) for line in chosen.items()):
            return None
        return Direction(*_blocks(edges), frozenset(chosen.items()))

    def _units(self, line: Line) -> set[int]:
        return set(np.unique(self._grids[line[0]].along(line[1])).tolist()) - {WHOLE}

    def _axes(self, number: int, covered: set[int]) -> list[Line]:
        """The axes a grid may be cut along: where something goes that stands for lines of one, that one alone."""
        grid = self._grids[number]
        forced = {axis for axis, atoms in grid.standing if not covered.isdisjoint(atoms.tolist())}
        axes = forced or range(grid.cells.ndim)
        return [(number, axis) for axis in axes] if len(forced) < 2 else []

    def _edges(self, line: Line) -> Edges:
        """Each line of an axis, under a negative number of its own, with all that goes with it."""
        along = self._grids[line[0]].along(line[1])
        names: Atoms = self._first[line[0]] - np.arange(len(along))
        return np.repeat(names, along.shape[1]), along.reshape(-1)


def _with(edges: Edges, more: Edges) -> Edges:
    return np.concatenate([edges[0], more[0]]), np.concatenate([edges[1], more[1]])


def _blocks(edges: Edges) -> tuple[Atoms, Atoms, int]:
    """The units, the block of each (`WHOLE` where something in it stays), and how many blocks there are."""
    units, own = _components(edges)
    kept, first = np.unique(own[own != WHOLE], return_index=True)
    number = np.argsort(np.argsort(first))  # by the first unit
    inside = np.searchsorted(kept, own).clip(0, max(kept.size - 1, 0))
    return units, np.where(own == WHOLE, WHOLE, number[inside]) if kept.size else own, kept.size


def _count(edges: Edges) -> int:
    """How many blocks there are."""
    own = _components(edges)[1]
    return np.unique(own[own != WHOLE]).size


def _components(edges: Edges) -> tuple[Atoms, Atoms]:
    """The units, and a number for each that it shares with all that goes with it, `WHOLE` where something stays."""
    nodes, index = np.unique(np.concatenate(edges), return_inverse=True)
    left, right = np.split(index.reshape(-1), 2)
    graph = coo_array((np.ones(left.size, np.bool_), (left, right)), shape=(nodes.size, nodes.size))
    component = connected_components(graph, directed=False)[1].astype(np.int64)
    units, own = nodes[nodes >= 0], component[nodes >= 0]
    if WHOLE in nodes:
        own = np.where(own == component[nodes == WHOLE][0], WHOLE, own)
    return units, own
