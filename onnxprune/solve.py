"""Solve one layer again from its rows: least squares toward the original outputs (docs/methods.md, *Rebuild*)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.allowance import USUAL, Allowance
from onnxprune.calibration.few_rows import FewRows, few_rows
from onnxprune.calibration.least_squares import RIDGES, HeldRows, RidgeFactor, choose_ridge, residual
from onnxprune.calibration.rows import Rows
from onnxprune.calibration.sampling import held_out
from onnxprune.calibration.statistics import Moments, Tally
from onnxprune.clipping import ClippedRows, alternate
from onnxprune.criteria.channel_gram import channel_system, scale_weights
from onnxprune.labels import Atoms
from onnxprune.native import F64
from onnxprune.parallel import LANES, both

LEAST_RESERVOIR = 1200
ALL_ROUNDS = 4e9
"""Multiply–adds of one round of the alternation in all layers together: a tenth of a second."""
FEW, PLENTY = 512, 20
"""Wider layers, and layers with fewer rows a feature, are not tried with the weakest ridge: a factorisation costs.
Those that are both take the strongest: there it was as good as any (docs/decisions/0013)."""
Error = Callable[[F64, F64], float]
"""Of a weight (n, F) and bias (n,), over the output's variance."""
WIDE_ROWS, WIDE_RIDGE = 2048, 1e-2
"""What solves a block too wide for sums."""


@dataclass(frozen=True, eq=False)
class Solution:
    """A block's new weight (n, F) and bias (n,), and its error on held-out rows before and after, over the energy."""

    weight: F64
    bias: F64
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The plain least-squares fit of a block, weight (n, F) and bias (n,), and what it was solved from.

    Blocks too wide for sums have a `few` rows alone. `error` judges on held-out rows, of which some are `judges`.
    """

    weight: F64
    bias: F64
    rows: Sequence[ClippedRows]
    error: Error
    moments: Moments | None = None
    factor: RidgeFactor | None = None
    judges: Sequence[ClippedRows] = ()
    few: FewRows | None = None

    def spread(self, weight: F64) -> F64:
        """(n, n) how outputs of a weight vary, W G Wᵀ."""
        if self.few is not None:
            return self.few.spread(weight)
        assert self.moments is not None
        return np.asarray(weight @ (self.moments.gram @ weight.T))

    def intercept(self, weight: F64) -> F64:
        """(n,) the bias that gives outputs of a weight their mean."""
        if self.few is not None:
            return np.asarray(self.bias + (self.weight - weight) @ self.few.mean)
        assert self.moments is not None
        return self.moments.mean_y - weight @ self.moments.mean_x


@dataclass(eq=False)
class _Seen:
    """Rows: sums of those that solve, rows that judge, and some for the alternation or for layers too wide for sums."""

    tally: Tally | None
    held: list[tuple[Rows, Rows]] = field(default_factory=list)
    kept: list[ClippedRows] = field(default_factory=list)
    judges: list[ClippedRows] = field(default_factory=list)
    means: "_Means" = field(default_factory=lambda: _Means())

    def absorb(self, other: "_Seen") -> None:
        """Add what another lane saw."""
        if self.tally is not None and other.tally is not None:
            self.tally.absorb(other.tally)
        self.held += other.held
        self.kept += other.kept
        self.judges += other.judges
        self.means.absorb(other.means)


@dataclass(eq=False)
class _Means:
    """Sums of inputs and of what they should give, for a layer too large to be solved."""

    count: int = 0
    x: F64 = field(default_factory=lambda: np.zeros(1))
    y: F64 = field(default_factory=lambda: np.zeros(1))

    def add(self, x: Rows, wanted: Rows) -> None:
        """Add rows (k, F) and (k, n)."""
        self.count += len(x)
        self.x = self.x + x.sum(axis=0, dtype=np.float64)
        self.y = self.y + wanted.sum(axis=0, dtype=np.float64)

    def absorb(self, other: "_Means") -> None:
        """Add what another lane saw."""
        self.count, self.x, self.y = self.count + other.count, self.x + other.x, self.y + other.y

    def bias(self, weight: F64) -> F64:
        """(n,) what gives the outputs the mean they should have."""
        bias: F64 = (self.y - weight @ self.x) / self.count
        return bias


class Block:
    """Rows of one block of a layer, summed as they come: X (k, F), target T (k, n), partner P (k, n) or None.

    The wanted output is T − P; where the sum is clipped by a Relu and T ≤ 0, anything that keeps it ≤ 0 will do.
    Each lane (`parallel.ahead`) has sums of its own, which come together when the block is solved, once.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        rows: int,
        clipped: bool,
        share: float,
        allowance: Allowance = USUAL,
        keeps: bool = False,
    ) -> None:
        narrow = features <= allowance.widest
        self.solvable = narrow or features * outputs <= allowance.largest
        weak = (features > FEW) + (rows < PLENTY * features)
        self._ridges = RIDGES[min(weak, len(RIDGES) - 1) :]
        self._lanes = [_Seen(Tally(features, outputs) if narrow else None) for _ in range(LANES)]
        self._clipped, self._keeps = clipped, keeps
        self._judge: Error | None = None
        self._share = share

    def add(self, x: Rows, target: Rows, partner: Rows | None, batch: int) -> None:
        """Add the rows of one batch; lanes may do so side by side."""
        lane = self._lanes[batch % LANES]
        offset = np.zeros_like(target) if partner is None else partner
        if not self.solvable:
            lane.means.add(x, target - offset)
            return
        if lane.tally is not None:
            held = held_out(len(x), batch)
            wanted = target - offset
            solving = held.start if len(self._ridges) > 1 else len(x)
            lane.tally.add(x[:solving], wanted[:solving])
            if held.start < len(x):
                lane.held.append((x[held].copy(), wanted[held]))
        if lane.tally is None or self._clipped or self._keeps:
            step = max(1, round(1 / self._share))
            every = slice(batch % step, None, step)
            if self._keeps:
                held = held_out(len(x), batch)
                lane.judges.append(_some(x, target, offset, held))
                every = slice(every.start, held.start, step)
            lane.kept.append(_some(x, target, offset, every))

    def solve(self, prior: F64, bias: F64) -> Solution:
        """The refit, with the strongest ridge that is as good as any on held-out rows."""
        if not self.solvable:
            return Solution(prior, self._together().means.bias(prior), np.nan, np.nan)
        fit = self.fit(prior)
        plain, (moments, factor) = (fit.weight, fit.bias), (fit.moments, fit.factor)
        if moments is None or factor is None:
            return Solution(*plain, np.nan, np.nan)

        def errors() -> tuple[float, float]:
            return fit.error(prior, bias), fit.error(*plain)

        def nearer() -> tuple[F64, F64]:
            if not self._clipped:
                return plain
            return alternate(fit.rows, moments, lambda cross: factor.solve(cross, prior), plain)

        (before, after), (weight, new_bias) = both(errors, nearer)
        return Solution(weight, new_bias, before, after)

    def fit(self, prior: F64) -> Fit:
        """The plain least-squares fit, once all rows are added; of a block that can be solved."""
        seen = self._together()
        if seen.tally is None:
            return _fit_wide(seen.kept, prior)
        rho = _ridge(seen.tally, seen.held, prior, self._ridges)
        moments, error = self._everything(seen)
        self._judge = error
        factor = RidgeFactor(moments.gram, rho)
        weight = factor.solve(moments.cross, prior)
        bias = moments.mean_y - weight @ moments.mean_x
        return Fit(weight, bias, seen.kept, error, moments, factor, seen.judges)

    def scale(self, prior: F64, bias: F64, units: Atoms) -> Solution:
        """One factor a unit instead of a new weight (ThiNet §3.3); `units` (F,) tells which unit a feature is of."""
        seen = self._together()
        if seen.tally is None:
            return Solution(prior, bias, np.nan, np.nan)
        moments, error = self._everything(seen)
        self._judge = error
        _, channel = np.unique(units, return_inverse=True)
        width = int(channel.max(initial=-1)) + 1
        factors = scale_weights(channel_system(prior, moments, channel, width), np.arange(width))
        weight = prior * factors[channel]
        new_bias = moments.mean_y - weight @ moments.mean_x
        return Solution(weight, new_bias, error(prior, bias), error(weight, new_bias))

    def error(self, weight: F64, bias: F64) -> float:
        """The error of these on held-out rows, once the block is solved; NaN where it is too wide to tell."""
        return np.nan if self._judge is None else self._judge(weight, bias)

    def _together(self) -> _Seen:
        seen, *others = self._lanes
        for other in others:
            seen.absorb(other)
        return seen

    def _everything(self, seen: _Seen) -> tuple[Moments, Error]:
        """The moments of all rows, and what tells the error of a weight and bias on those held out."""
        assert seen.tally is not None
        for x, wanted in seen.held if len(self._ridges) > 1 else ():
            seen.tally.add(x, wanted)
        moments = seen.tally.moments()
        if not seen.held:
            return moments, lambda weight, bias: _error(moments, weight, bias)
        return moments, HeldRows(seen.held, moments.mean_x).error


def _ridge(tally: Tally, held: Sequence[tuple[Rows, Rows]], prior: F64, candidates: Sequence[float]) -> float:
    if len(candidates) == 1 or not held or not tally.count:
        return candidates[-1]
    inside = tally.moments()
    return choose_ridge(inside, HeldRows(held, inside.mean_x), prior, candidates)


def _some(x: Rows, target: Rows, offset: Rows, rows: slice) -> ClippedRows:
    return ClippedRows(x[rows].copy(), target[rows].copy(), offset[rows].copy())


def _fit_wide(kept: Sequence[ClippedRows], prior: F64) -> Fit:
    parts = ((rows.x, rows.target, rows.offset) for rows in kept)
    x, target, offset = (np.concatenate(part)[-WIDE_ROWS:] for part in zip(*parts, strict=True))
    wanted, few = (target - offset).astype(np.float64), few_rows(x)
    mean = wanted.mean(axis=0)
    weight = few.refit(wanted - mean, prior, WIDE_RIDGE)
    return Fit(weight, mean - weight @ few.mean, kept, lambda weight, bias: np.nan, few=few)


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
