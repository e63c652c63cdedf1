"""A convolution as two, one along either side: kh×1 to fewer maps, then 1×kw (docs/methods.md, *Convolutions*).

The form is that of Jaderberg et al. 2014 (Speeding up convolutional neural networks with low rank expansions); its
plain solution, by singular vectors of the weight, that of Tai et al. 2016. Here outputs count, not weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from onnxprune.calibration.least_squares import RidgeFactor, factored, mean_diagonal
from onnxprune.low_rank.factors import Factors, by_singular_values, leading
from onnxprune.native import F64

Linear = Callable[[F64], F64]
ROOT_RIDGE, RIDGE = 1e-6, 1e-9
"""Of the mean variance: enough to divide by a matrix's root, and by the matrix."""
TURNS, STEPS = 2, 3
"""Turns of the alternation, and conjugate gradients in each. One turn is within a thousandth of ten."""


@dataclass(frozen=True, eq=False)
class Sides:
    """Products of rank k for a weight (n, C·kh·kw) whose inputs have the second moments `gram`.

    A product M costs tr((W − M) G (W − M)ᵀ). Were G itself a product, of moments (C·kh)² that all columns of a window
    share and moments kw² of its rows, then singular vectors of the weight between the roots of the two would make the
    best product of each rank: there the alternation starts.
    """

    weight: F64
    gram: F64
    kernel: tuple[int, ...]

    @property
    def energy(self) -> float:
        """tr(W G Wᵀ)."""
        return float(np.vdot(self.wanted, self.weight))

    def factors(self, rank: int, turns: int = TURNS) -> Factors:
        """A product of this rank, after so many turns."""
        first = self._leading(rank)
        found = Factors(first, self._second(first, self.wanted))
        for _ in range(turns):
            found = self.improved(found, self.wanted)
        return found

    def improved(self, now: Factors, wanted: F64) -> Factors:
        """One turn: the first factor by some conjugate gradients, then the second exactly; `wanted` (n, F) is W G."""
        first = self._first(now, wanted)
        return Factors(first, self._second(first, wanted))

    def errors(self, ranks: Sequence[int]) -> F64:
        """What products of these ranks cost before the first turn: of all at once, for their maps are the same."""
        wide, first = self.kernel[1], self._leading(max(ranks))
        own, cross = self._maps(first, self.wanted)
        factor, _ = factored(own, RIDGE * mean_diagonal(own), mean_diagonal(own))
        if factor is None:
            return np.zeros(len(ranks))
        told = solve_triangular(factor, cross.T, trans="T")
        kept = np.append(0.0, np.cumsum(np.einsum("mn,mn->m", told, told)))
        return np.asarray(np.maximum(self.energy - kept[np.array(ranks) * wide], 0.0))

    @cached_property
    def wanted(self) -> F64:
        """(n, F) W G."""
        return self.weight @ self.gram

    @cached_property
    def _shared(self) -> tuple[F64, F64]:
        """The moments (C·kh)² that columns share, and kw² of rows, whose product is as large as G."""
        wide = self.kernel[1]
        blocks = self.gram.reshape(len(self.gram) // wide, wide, -1, wide)
        rows, columns = np.einsum("ajbj->ab", blocks) / wide, np.einsum("aiaj->ij", blocks)
        return rows, columns * wide / (np.trace(columns) or 1.0)

    @cached_property
    def _whitened(self) -> tuple[F64, F64]:
        """The upper root of the shared moments (C·kh)², and the square of the weight between the roots."""
        wide = self.kernel[1]
        rows, columns = (_root(moments) for moments in self._shared)
        spread = (self.weight.reshape(len(self.weight), -1, wide) @ columns.T).transpose(1, 0, 2)
        between = rows @ np.ascontiguousarray(spread).reshape(len(rows), -1)
        return rows, between @ between.T

    @cached_property
    def _row_factor(self) -> RidgeFactor:
        return RidgeFactor(self._shared[0], RIDGE)

    def _leading(self, rank: int) -> F64:
        """(k, C, kh) where the alternation starts."""
        rows, square = self._whitened
        taps = solve_triangular(rows, leading(square, rank)).T
        return np.ascontiguousarray(taps).reshape(rank, -1, self.kernel[0])

    def _mixed(self, taps: F64) -> F64:
        """(k·kw, C·kh, kw) the moments of the maps, at each column of the window, with the inputs."""
        wide = self.kernel[1]
        return np.asarray((taps @ self.gram.reshape(taps.shape[1], -1)).reshape(len(taps) * wide, -1, wide))

    def _maps(self, first: F64, wanted: F64) -> tuple[F64, F64]:
        """The moments of the maps with each other (k·kw, k·kw), and with what is wanted (n, k·kw)."""
        taps, wide = first.reshape(len(first), -1), self.kernel[1]
        own = (taps @ self._mixed(taps)).reshape(len(taps) * wide, -1)
        cross = (taps @ wanted.reshape(len(wanted), -1, wide)).reshape(len(wanted), -1)
        return own, cross

    def _second(self, first: F64, wanted: F64) -> F64:
        """The least squares of what is wanted from the maps."""
        own, cross = self._maps(first, wanted)
        solved = RidgeFactor(own, RIDGE).solve(np.ascontiguousarray(cross.T), np.zeros(cross.shape))
        return solved.reshape(len(wanted), len(first), -1)

    def _first(self, now: Factors, wanted: F64) -> F64:
        """Some conjugate gradients, of which one would be enough if G were the product of the shared moments."""
        rank, wide = now.rank, self.kernel[1]
        flat = now.second.reshape(len(wanted), -1)
        pairs = (flat.T @ flat).reshape(rank, wide, rank, wide)
        inner = RidgeFactor(np.einsum("aibj,ij->ab", pairs, self._shared[1]), RIDGE)

        def times(taps: F64) -> F64:
            mixed = self._mixed(taps)
            return np.asarray(sum(pairs[:, j].reshape(rank, -1) @ mixed[:, :, j] for j in range(wide)))

        def nearly(missing: F64) -> F64:
            across = self._row_factor.solve(np.ascontiguousarray(missing.T), np.zeros(missing.shape))
            return inner.solve(np.ascontiguousarray(across), np.zeros(across.T.shape)).T

        columns = wanted.reshape(len(wanted), -1, wide)
        goal = np.asarray(sum(now.second[:, :, j].T @ columns[:, :, j] for j in range(wide)))
        return descended(now.first.reshape(rank, -1), goal, times, nearly).reshape(now.first.shape)


def sides_by_singular_values(weight: F64, kernel: tuple[int, ...], rank: int) -> Factors:
    """The product nearest to a weight (n, C·kh·kw), whatever its inputs (Tai et al. 2016)."""
    wide = kernel[1]
    spread = weight.reshape(len(weight), -1, wide).transpose(1, 0, 2)
    plain = by_singular_values(spread.reshape(len(spread), -1), rank)  # (C·kh, n·kw)
    second = plain.first.reshape(rank, -1, wide).transpose(1, 0, 2)
    return Factors(plain.second.T.reshape(rank, -1, kernel[0]), np.ascontiguousarray(second))


def descended(now: F64, goal: F64, times: Linear, nearly: Linear, steps: int = STEPS) -> F64:
    """Some preconditioned conjugate gradients toward times(x) = goal: none raises the quadratic that this minimises."""
    missing = goal - times(now)
    step = nearly(missing)
    size = float(np.vdot(missing, step))
    for _ in range(steps):
        bent = times(step)
        curvature = float(np.vdot(step, bent))
        if curvature <= 0 or size <= 0:
            break
        now = now + size / curvature * step
        missing = missing - size / curvature * bent
        nearer = nearly(missing)
        before, size = size, float(np.vdot(missing, nearer))
        step = nearer + size / before * step
    return now


def _root(moments: F64) -> F64:
    """The upper Cholesky factor, with a small ridge."""
    mean = mean_diagonal(moments)
    factor, _ = factored(moments, ROOT_RIDGE * mean, mean)
    return np.eye(len(moments)) if factor is None else np.triu(factor)
