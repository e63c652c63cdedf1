"""Solve one layer again from its rows: least squares toward the original outputs (docs/methods.md, *Rebuild*)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.least_squares import RIDGES, RidgeFactor, choose_ridge, refit_rows
from onnxprune.calibration.rows import Rows
from onnxprune.calibration.sampling import held_out
from onnxprune.calibration.statistics import F64, Moments, Tally
from onnxprune.clipping import ClippedRows, alternate
from onnxprune.criteria.channel_gram import channel_system, scale_weights
from onnxprune.labels import Atoms

LEAST_RESERVOIR = 1200
ALL_ROUNDS = 4e9
"""Multiply–adds of one round of the alternation in all layers together: a tenth of a second."""
FEW, PLENTY = 512, 20
"""Wider layers with fewer rows a feature take the strongest ridge: there it was as good as any (docs/decisions/0013).
With more rows they are not tried with the weakest: a factorisation costs."""
WIDE_ROWS = 2048
WIDE_RIDGE = 1e-2


@dataclass(frozen=True, eq=False)
class Solution:
    """A block's new weight (n, F) and bias (n,), and its error on held-out rows before and after, over the energy."""

    weight: F64
    bias: F64
    before: float
    after: float


class Block:
    """Rows of one block of a layer, summed as they come: X (k, F), target T (k, n), partner P (k, n) or None.

    The wanted output is T − P; where the sum is clipped by a Relu and T ≤ 0, anything that keeps it ≤ 0 will do.
    """

    def __init__(self, features: int, outputs: int, narrow: bool, clipped: bool, share: float) -> None:
        self._tallies = (Tally(features, outputs), Tally(features, outputs)) if narrow else None
        self._clipped = clipped
        self._share = share
        self._kept: dict[int, tuple[Rows, Rows, Rows]] = {}

    def add(self, x: Rows, target: Rows, partner: Rows | None, batch: int) -> None:
        """Add the rows of one batch."""
        offset = np.zeros_like(target) if partner is None else partner
        if self._tallies is not None:
            held = held_out(len(x), batch)
            wanted = target - offset
            self._tallies[0].add(x[: held.start], wanted[: held.start])
            self._tallies[1].add(x[held], wanted[held])
        if self._tallies is None or self._clipped:
            step = max(1, round(1 / self._share))
            rows = slice(batch % step, None, step)
            self._kept[batch] = (x[rows].copy(), target[rows].copy(), offset[rows].copy())

    def absorb(self, other: "Block") -> None:
        """Add the rows of another block of the same layer, which saw other batches."""
        for mine, its in zip(self._tallies or (), other._tallies or (), strict=True):
            mine.absorb(its)
        self._kept = dict(sorted((self._kept | other._kept).items()))

    def solve(self, prior: F64, bias: F64) -> Solution:
        """The refit, with the strongest ridge that is as good as any on held-out rows."""
        if self._tallies is None:
            return self._solve_wide(prior)
        solve, held = (tally.sums() for tally in self._tallies)
        everything = (solve + held).centred()
        judge = held.centred() if held.count else everything
        features = prior.shape[1]
        rho = RIDGES[-1]
        if features <= FEW or everything.count >= PLENTY * features:
            inside = solve.centred() if solve.count else everything
            rho, _ = choose_ridge(inside, judge, prior, np.arange(features), RIDGES[features > FEW :])
        factor = RidgeFactor(everything.gram, rho)
        weight = factor.solve(everything.cross, prior)
        before = _error(judge, prior, bias)
        new_bias = everything.mean_y - weight @ everything.mean_x
        after = _error(judge, weight, new_bias)
        if self._clipped:
            rows = [ClippedRows(*arrays) for arrays in self._kept.values()]
            weight, new_bias = alternate(rows, everything, factor, prior, (weight, new_bias))
        return Solution(weight, new_bias, before, after)

    def scale(self, prior: F64, bias: F64, units: Atoms) -> Solution:
        """One factor a unit instead of a new weight (ThiNet §3.3); `units` (F,) tells which unit a feature is of."""
        if self._tallies is None:
            return Solution(prior, bias, np.nan, np.nan)
        solve, held = (tally.sums() for tally in self._tallies)
        moments = (solve + held).centred()
        judge = held.centred() if held.count else moments
        _, channel = np.unique(units, return_inverse=True)
        width = int(channel.max(initial=-1)) + 1
        factors = scale_weights(channel_system(prior, moments, channel, width), np.arange(width))
        weight = prior * factors[channel]
        new_bias = moments.mean_y - weight @ moments.mean_x
        return Solution(weight, new_bias, _error(judge, prior, bias), _error(judge, weight, new_bias))

    def _solve_wide(self, prior: F64) -> Solution:
        x, target, offset = (np.concatenate(parts)[-WIDE_ROWS:] for parts in zip(*self._kept.values(), strict=True))
        wanted = (target - offset).astype(np.float64)
        weight = refit_rows(x.astype(np.float64), wanted, prior, WIDE_RIDGE)
        return Solution(weight, wanted.mean(axis=0) - weight @ x.mean(axis=0), np.nan, np.nan)


def _error(moments: Moments, weight: F64, bias: F64) -> float:
    """E‖y − Wx − b‖² over the output's variance."""
    fitted = weight @ moments.gram
    offset = moments.mean_y - weight @ moments.mean_x - bias
    error = moments.energy - 2 * np.vdot(weight, moments.cross.T) + np.vdot(fitted, weight) + offset @ offset
    return float(error) / max(moments.energy, 1e-30)


def reservoir_share(features: int, outputs: int, rows: int, layers: int) -> float:
    """The share of rows that the alternation keeps: plenty for the fit, and cheap to go over again and again."""
    wanted = max(LEAST_RESERVOIR, ALL_ROUNDS / layers / max(features * outputs, 1))
    return min(1.0, wanted / max(rows, 1))


def worst(solutions: Sequence[Solution]) -> tuple[float, float]:
    """The largest errors before and after."""
    return max(s.before for s in solutions), max(s.after for s in solutions)
