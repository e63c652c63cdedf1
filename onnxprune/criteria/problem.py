"""What a criterion is given and what it returns: one group's weights and statistics in, a removal order out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.statistics import Moments
from onnxprune.native import F64, Real

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Reader:
    """One linear layer Y = XWᵀ + b that reads (part of) the group.

    `weight` (n, F); `moments` of its inputs and targets, or None where there is no data or F is too wide for a
    Gram matrix; `channel` (F,) the unit 0..C−1 a feature belongs to, −1 for a feature of another group, which
    stays; `variance` (F,) of the inputs for the diagonal fallback where `moments` is None.
    """

    name: str
    weight: Real
    moments: Moments | None
    channel: Index
    variance: F64 | None = None

    def variances(self) -> F64:
        """(F,) the inputs' variances: measured where possible, else 1 for every feature."""
        if self.moments is not None:
            return self.moments.gram.diagonal().astype(np.float64)
        return np.ones(len(self.channel)) if self.variance is None else self.variance

    def squares(self) -> F64:
        """(F,) the sum of each column's squares."""
        sums: F64 = np.einsum("nf,nf->f", self.weight, self.weight, dtype=np.float64)
        return sums

    def energy(self) -> float:
        """The output's variance that this reader's errors are divided by; never zero."""
        energy = self.moments.energy if self.moments is not None else float(self.variances() @ self.squares())
        return energy if energy > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Writer:
    """A layer that produces the group: `weight` (C, anything), one row a unit."""

    name: str
    weight: Real


@dataclass(frozen=True, eq=False)
class Problem:
    """One group of `width` C units to rank.

    `rows` (C,) partitions the units where a constraint (grouped conv, shuffle) wants the same number kept in
    each part; None where any set will do. `seed` is for criteria that draw. `importance` (C,) has scores that were
    computed from the whole graph, higher is worth keeping; None where there are none.
    """

    group: str
    width: int
    readers: tuple[Reader, ...]
    writers: tuple[Writer, ...] = ()
    rows: Index | None = None
    seed: int = 0
    importance: F64 | None = None

    @property
    def row_count(self) -> int:
        """The number of parts that each keep the same number of units; 1 where unconstrained."""
        return 1 if self.rows is None else len(np.unique(self.rows))

    def dead(self) -> NDArray[np.bool_]:
        """(C,) True for a unit that never varies at any reader: removing it costs nothing."""
        alive = np.zeros(self.width, dtype=bool)
        measured = False
        for reader in self.readers:
            if reader.moments is None and reader.variance is None:
                alive[reader.channel[reader.channel >= 0]] = True
            variances = reader.variances()
            live = (variances > 1e-12 * variances.max(initial=0.0)) & (reader.channel >= 0)
            alive[reader.channel[live]] = True
            measured = True
        return ~alive if measured else alive


@dataclass(frozen=True)
class Options:
    """A criterion's knobs: `norm` l1|l2 of magnitude, `forward` the matching-pursuit variant of ThiNet,
    `ridge` of obs relative to the mean input variance, `chunk` units that obs removes a step, None: by width.
    """

    norm: str = "l1"
    forward: bool = False
    ridge: float = 1e-2
    chunk: int | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """A criterion's answer: `order` (C,) the units, first to go first.

    `exact` holds a kept set of its own at the widths where the criterion has one, every other width keeps the
    end of `order`; `cost` (C+1,) is the criterion's own normalised error after removing k units; `rows` is the
    number of parts that keep the same number each, and `order` is balanced over them.
    """

    order: Index
    exact: Mapping[int, Index] = field(default_factory=dict)
    cost: F64 | None = None
    rows: int = 1

    def keep(self, k: int) -> Index:
        """The sorted `k` units to keep; raises ValueError where k is out of range or not a multiple of `rows`."""
        if not 0 <= k <= len(self.order) or k % self.rows:
            raise ValueError(f"cannot keep {k} of {len(self.order)} units in {self.rows} equal parts")
        if k in self.exact:
            return self.exact[k]
        return np.sort(self.order[len(self.order) - k :])


def balanced(order: Index, rows: Index | None) -> Index:
    """`order` rearranged so that each round takes one unit of every row, cheapest rows first within a round."""
    if rows is None:
        return order
    rounds = np.empty(len(order), dtype=np.intp)
    for row in np.unique(rows):
        places = np.flatnonzero(rows[order] == row)
        rounds[places] = np.arange(len(places))
    return order[np.argsort(rounds, kind="stable")]


def rank(scores: F64, problem: Problem) -> Index:
    """Units by ascending score (higher is worth keeping), dead ones first, balanced over the rows."""
    order = np.lexsort((scores, ~problem.dead()))
    return balanced(order, problem.rows)
