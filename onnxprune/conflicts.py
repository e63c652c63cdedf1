"""Integers of the graph that two widths would be written into, or that are computed from another width."""

from collections.abc import Sequence

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Fixed, Follow, Size
from onnxprune.units import Ties, Units, whole_along

Found = tuple[Ties, list[Fixed]]
Ends = tuple[tuple[Label, int, int | None], tuple[Label, int, int | None]]
"""Two labels, which of their axes, and how many positions of it count (None: all)."""


def positions(label: Label, axis: int, units: Units) -> Atoms:
    """(levels, positions) the block of each level that takes each position along an axis away; `WHOLE`: none does."""
    here = units.of(label.atoms)
    lines = np.moveaxis(here, axis, 0).reshape(here.shape[axis], -1)
    found = [level[lines] for level in units.levels]
    return np.stack([np.where(np.all(own == own[:, :1], axis=1), own[:, 0], WHOLE) for own in found])


def conflicts(sizes: Sequence[Size], follows: Sequence[Follow], units: Units) -> Found:
    """What must be tied or stay for every integer to have one value: first the sizes, then those computed."""
    ties, fixed = _size_conflicts(sizes, units)
    for fact in follows:
        ends: Ends = ((*fact.source, None), (*fact.target, fact.upto))
        more = _resolved(ends, fact.reason, units, proportional=True)
        ties, fixed = ties + more[0], fixed + more[1]
    return ties, fixed


def _size_conflicts(sizes: Sequence[Size], units: Units) -> Found:
    """Two labels want to write different counts into one integer."""
    first: dict[tuple[object, ...], Size] = {}
    ties: Ties = []
    fixed: list[Fixed] = []
    for size in sizes:
        other = first.setdefault((size.node, size.place, size.element), size)
        if other.pinned != size.pinned:
            open_ = [x for x in (other, size) if np.any(units.of(x.label.atoms) != WHOLE)]
            fixed += [Fixed(x.label.atoms, f"{size.node.name} takes one number in two ways") for x in open_]
        elif other is not size and not size.pinned:
            ends: Ends = ((other.label, other.axis, other.upto), (size.label, size.axis, size.upto))
            more = _resolved(ends, f"{size.node.name} takes one number for two different widths", units)
            ties, fixed = ties + more[0], fixed + more[1]
    return ties, fixed


def _resolved(ends: Ends, reason: str, units: Units, proportional: bool = False) -> Found:
    """Where a direction takes unlike shares of the two, it may not cut; where plain units do, both labels stay."""
    one, two = (positions(label, axis, units)[:, :upto] for label, axis, upto in ends)
    scale = (two.shape[1], one.shape[1]) if proportional else (1, 1)
    if _alike(one, two, scale):
        return [], []
    unlike = [np.append(a, b) for a, b in zip(one, two, strict=True) if not _alike(a, b, scale)]
    blocks = np.unique(np.concatenate(unlike or [np.empty(0, np.int64)]))
    cut = set(units.source[blocks[blocks != WHOLE]].tolist()) - {-1}
    ties = [
        tie for atoms, axis in (units.cuts[number] for number in sorted(cut)) for tie in whole_along(atoms, axis, units)
    ]
    return (ties, []) if ties else ([], [Fixed(label.atoms, reason) for label, _, _ in ends])


def _alike(one: Atoms, two: Atoms, scale: tuple[int, int]) -> bool:
    """Whether blocks, or combinations of blocks, take as many positions of both, but for the scales."""
    counts = []
    for found, times in zip((one, two), scale, strict=True):
        columns = np.atleast_2d(found)
        own, number = np.unique(columns[:, np.any(columns != WHOLE, axis=0)], axis=1, return_counts=True)
        counts.append((own, number * times))
    return all(np.array_equal(a, b) for a, b in zip(*counts, strict=True))
