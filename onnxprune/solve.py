"""Solve one layer again from its rows: least squares toward the original outputs (docs/methods.md, *Rebuild*)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.least_squares import RIDGES, HeldRows, RidgeFactor, choose_ridge, refit_rows, residual
from onnxprune.calibration.rows import Rows
from onnxprune.calibration.sampling import held_out
from onnxprune.calibration.statistics import Moments, Tally
from onnxprune.clipping import ClippedRows, alternate
from onnxprune.criteria.channel_gram import channel_system, scale_weights
from onnxprune.labels import Atoms
from onnxprune.native import F64

LEAST_RESERVOIR = 1200
ALL_ROUNDS = 4e9
"""Multiply–adds of one round of the alternation in all layers together: a tenth of a second."""
FEW, PLENTY = 512, 20
"""Wider layers with fewer rows a feature take the strongest ridge: there it was as good as any (docs/decisions/0013).
With more rows they are not tried with the weakest: a factorisation costs."""
Error = Callable[[F64, F64], float]
"""Of a weight (n, F) and bias (n,), over the output's variance."""
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
        self._tally = Tally(features, outputs) if narrow else None
        self._clipped = clipped
        self._share = share
        self._held: list[tuple[Rows, Rows]] = []
        self._kept: list[ClippedRows] = []

    def add(self, x: Rows, target: Rows, partner: Rows | None, batch: int) -> None:
        """Add the rows of one batch."""
        offset = np.zeros_like(target) if partner is None else partner
        if self._tally is not None:
            held = held_out(len(x), batch)
            wanted = target - offset
            self._tally.add(x[: held.start], wanted[: held.start])
            if held.start < len(x):
                self._held.append((x[held].copy(), wanted[held]))
        if self._tally is None or self._clipped:
            step = max(1, round(1 / self._share))
            rows = slice(batch % step, None, step)
            self._kept.append(ClippedRows(x[rows].copy(), target[rows].copy(), offset[rows].copy()))

    def solve(self, prior: F64, bias: F64) -> Solution:
        """The refit, with the strongest ridge that is as good as any on held-out rows."""
        if self._tally is None:
            return self._solve_wide(prior)
        features, count = prior.shape[1], self._tally.count + sum(len(x) for x, _ in self._held)
        rho = RIDGES[-1]
        if features <= FEW or count >= PLENTY * features:
            rho = self._ridge(prior, RIDGES[features > FEW :])
        everything, error = self._everything()
        factor = RidgeFactor(everything.gram, rho)
        weight = factor.solve(everything.cross, prior)
        new_bias = everything.mean_y - weight @ everything.mean_x
        before, after = error(prior, bias), error(weight, new_bias)
        if self._clipped:
            weight, new_bias = alternate(self._kept, everything, factor, prior, (weight, new_bias))
        return Solution(weight, new_bias, before, after)

    def scale(self, prior: F64, bias: F64, units: Atoms) -> Solution:
        """One factor a unit instead of a new weight (ThiNet §3.3); `units` (F,) tells which unit a feature is of."""
        if self._tally is None:
            return Solution(prior, bias, np.nan, np.nan)
        moments, error = self._everything()
        _, channel = np.unique(units, return_inverse=True)
        width = int(channel.max(initial=-1)) + 1
        factors = scale_weights(channel_system(prior, moments, channel, width), np.arange(width))
        weight = prior * factors[channel]
        new_bias = moments.mean_y - weight @ moments.mean_x
        return Solution(weight, new_bias, error(prior, bias), error(weight, new_bias))

    def _ridge(self, prior: F64, candidates: Sequence[float]) -> float:
        assert self._tally is not None
        if not self._held or not self._tally.count:
            return candidates[-1]
        inside = self._tally.moments()
        return choose_ridge(inside, HeldRows(self._held, inside.mean_x), prior, candidates)

    def _everything(self) -> tuple[Moments, Error]:
        """The moments of all rows, and what tells the error of a weight and bias on those held out."""
        assert self._tally is not None
        for x, wanted in self._held:
            self._tally.add(x, wanted)
        moments = self._tally.moments()
        if not self._held:
            return moments, lambda weight, bias: _error(moments, weight, bias)
        return moments, HeldRows(self._held, moments.mean_x).error

    def _solve_wide(self, prior: F64) -> Solution:
        parts = ((rows.x, rows.target, rows.offset) for rows in self._kept)
        x, target, offset = (np.concatenate(part)[-WIDE_ROWS:] for part in zip(*parts, strict=True))
        wanted = (target - offset).astype(np.float64)
        weight = refit_rows(x.astype(np.float64), wanted, prior, WIDE_RIDGE)
        return Solution(weight, wanted.mean(axis=0) - weight @ x.mean(axis=0), np.nan, np.nan)


def _error(moments: Moments, weight: F64, bias: F64) -> float:
    """E‖y − Wx − b‖² over the output's variance."""
    offset = moments.mean_y - weight @ moments.mean_x - bias
    every = np.arange(weight.shape[1])
    error = residual(moments.gram, moments.cross, moments.energy, weight, every) + offset @ offset
    return float(error) / max(moments.energy, 1e-30)


def reservoir_share(features: int, outputs: int, rows: int, layers: int) -> float:
    """The share of rows that the alternation keeps: plenty for the fit, and cheap to go over again and again."""
    wanted = max(LEAST_RESERVOIR, ALL_ROUNDS / layers / max(features * outputs, 1))
    return min(1.0, wanted / max(rows, 1))


def worst(solutions: Sequence[Solution]) -> tuple[float, float]:
    """The largest errors before and after."""
    return max(s.before for s in solutions), max(s.after for s in solutions)
