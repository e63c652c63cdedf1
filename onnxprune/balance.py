"""Grouped convolutions: equally many units must go from each row that one reads or writes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxprune.labels import WHOLE, Atoms
from onnxprune.op_rules.facts import Balanced
from onnxprune.units import Classes, Ties, Units, classes_of, in_rounds, whole_along


def balance_ties(balanced: Sequence[Balanced], places: Sequence[Atoms], units: Units) -> Ties:
    """The ties that let every class of units lose equally many from each row of each grouped convolution."""
    if not balanced or not units.count:
        return []
    classes = classes_of(units.count, [units.of(atoms) for atoms in places])
    arrays = [fact.atoms for fact in balanced]
    if ties := in_rounds(arrays, lambda a, now: [] if _even(now.of(a), classes) else whole_along(a, 0, now), units):
        return ties
    uneven = _uneven_classes(with_cells(units, balanced).cell, classes)
    crossing = [atoms for atoms in reversed(arrays) if np.isin(classes[_open(units.of(atoms))], uneven).any()]
    return next((ties for atoms in crossing if (ties := whole_along(atoms, 0, units))), [])


def product_ties(balanced: Sequence[Balanced], factored: Sequence[Atoms], units: Units) -> Ties:
    """The ties that leave one axis free of each factored array that a grouped convolution meets: rows cannot go."""
    met = np.zeros(units.count + 1, np.bool_)
    for fact in balanced:
        met[units.of(fact.atoms)] = True
    met[WHOLE] = False
    return in_rounds((atoms for atoms in factored if met[units.of(atoms)].any()), _longest_axis_free, units)


def _longest_axis_free(atoms: Atoms, units: Units) -> Ties:
    here = units.of(atoms)

    def open_positions(axis: int) -> int:
        lines = np.moveaxis(here, axis, 0).reshape(here.shape[axis], -1)
        whole = np.sort(lines[np.all(lines != WHOLE, axis=1)], axis=1)
        return len(np.unique(whole, axis=0))

    axis = max(reversed(range(atoms.ndim)), key=open_positions)
    lines = np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)
    return whole_along(lines, 1, units)


def _open(units: Atoms) -> Atoms:
    found: Atoms = units[units != WHOLE]
    return found


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


def with_cells(units: Units, balanced: Sequence[Balanced]) -> Units:
    """Number for each unit the row that it lies in, of all grouped convolutions together."""
    rng = np.random.default_rng(0)
    cell = np.zeros(units.count, np.uint64)
    for fact in balanced:
        own, table = _table(units.of(fact.atoms))
        single = ~np.all(table == table[:1], axis=0)
        marks: npt.NDArray[np.uint64] = rng.integers(1, 2**62, size=(table.shape[0],), dtype=np.uint64)
        rows: Atoms = table[:, single].argmax(axis=0)
        cell[own[single]] += marks[rows]
    return replace(units, cell=cell)


def _uneven_classes(cell: npt.NDArray[np.uint64], classes: Classes) -> Classes:
    """The classes whose cells hold different numbers of units: two partitions that do not nest."""
    cells = np.unique(cell, return_inverse=True)[1]
    pairs, counts = np.unique(np.stack([classes, cells]).astype(np.int64), axis=1, return_counts=True)
    least, most = np.full(classes.max() + 2, np.iinfo(np.int64).max), np.zeros(classes.max() + 2, np.int64)
    np.minimum.at(least, pairs[0], counts)
    np.maximum.at(most, pairs[0], counts)
    return np.flatnonzero((most > least)[:-1])
