"""Refit of a linear layer on a kept set of its inputs: ridge toward the original weights (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune import native
from onnxprune.calibration.statistics import Moments
from onnxprune.native import F32, F64, Real
from onnxprune.parallel import LANES, each

Index = NDArray[np.intp]
Matrix = TypeVar("Matrix", bound=NDArray[np.floating[Any]])
RIDGES = (1e-3, 1e-2, 1e-1)
AS_GOOD = 1.02
"""Errors this near tell nothing; the stronger ridge stays nearer to the trained weights."""
_SMALLEST_RIDGE, _LEAST_SCALE = 1e-10, 1e-200
_JUDGES = 500
"""Rows; twice as many tell the same and take as long as the solution they judge."""


def refit(gram: Real, cross: F64, prior: Real, kept: Index, rho: float) -> F64:
    """The weight W' (n, F') = (C_Sᵀ + ρmW_S)(G_SS + ρmI)⁻¹ with m = mean diag G.

    `gram` (F, F), `cross` (F, n), `prior` (n, F), `kept` the F' feature indices of S. Where the matrix is not
    positive definite the ridge is raised until it is; an input without any signal keeps its prior weights.
    """
    scale = mean_diagonal(gram)
    near: F64 = prior[:, kept].astype(np.float64, copy=False)
    return ridge_solve(principal(gram, kept), cross[kept].T, near, rho * scale, scale) if scale else near


class RidgeFactor:
    """The factored system of a refit on all features, for several targets in turn: Cholesky once."""

    def __init__(self, gram: Real, rho: float) -> None:
        scale = mean_diagonal(gram)
        self._factor, self._ridge = factored(gram, rho * scale, scale)

    def solve(self, cross: F64, prior: F64) -> F64:
        """The weight (n, F) for `cross` (F, n), pulled toward `prior`."""
        if self._factor is None:
            return prior.copy()
        return _solved(self._factor, cross.T + self._ridge * prior)


def residual(gram: Real, cross: F64, energy: float, weight: F64, kept: Index) -> float:
    """E‖y − W'x_S‖² of centred moments = energy − 2tr(W'C_S) + tr(W'G_SS W'ᵀ); `weight` (n, F')."""
    fitted = weight @ principal(gram, kept)
    return float(energy - 2 * np.vdot(weight, cross[kept].T) + np.vdot(fitted, weight))


def principal(gram: Matrix, kept: Index) -> Matrix:
    """The rows and columns `kept` of a square matrix; the matrix itself, not a copy, where those are all in order."""
    if len(kept) == len(gram) and np.array_equal(kept, np.arange(len(gram))):
        return gram
    return gram.take(kept, axis=0).take(kept, axis=1)  # type: ignore[return-value]


def held_out_error(solve: Moments, held: Moments, weight: F64, kept: Index) -> float:
    """Error on `held` of a weight and intercept that were solved on `solve`: the means may differ too."""
    offset = (held.mean_y - solve.mean_y) - weight @ (held.mean_x - solve.mean_x)[kept]
    return residual(held.gram, held.cross, held.energy, weight, kept) + float(offset @ offset)


class HeldRows:
    """Rows that judge: parts of inputs (k, F) and targets (k, n), less `mean` (F,), for fp32's sake."""

    def __init__(self, parts: Sequence[tuple[F32, F32]], mean: F64) -> None:
        self._mean = mean
        step = max(1, sum(len(y) for _, y in parts) // _JUDGES)
        y = np.concatenate([y[::step] for _, y in parts])
        x = np.concatenate([x[::step] for x, _ in parts]) - mean.astype(np.float32)
        self._parts = list(zip(np.array_split(x, LANES), np.array_split(y, LANES), strict=True))
        self._energy = float(y.var(axis=0, dtype=np.float64).mean()) * y.size

    def error(self, weight: F64, bias: F64) -> float:
        """E‖y − Wx − b‖² over the output's variance, for a weight (n, F) and bias (n,)."""
        across, middle = weight.T.astype(np.float32), (bias + weight @ self._mean).astype(np.float32)

        def squares(part: tuple[F32, F32]) -> float:
            missing = part[0] @ across + (middle - part[1])
            return float(np.einsum("kn,kn->n", missing, missing, dtype=np.float64).sum())

        return sum(each(squares, self._parts)) / max(self._energy, 1e-30)


def choose_ridge(solve: Moments, held: HeldRows, prior: F64, candidates: Sequence[float]) -> float:
    """The strongest relative ridge whose held-out error is within a fiftieth of the least."""

    def judged(rho: float) -> tuple[float, float]:
        weight = RidgeFactor(solve.gram, rho).solve(solve.cross, prior)
        return held.error(weight, solve.mean_y - weight @ solve.mean_x), rho

    fits = each(judged, candidates)
    least = min(error for error, _ in fits)
    return max((rho for error, rho in fits if error <= AS_GOOD * least), default=candidates[-1])


def mean_diagonal(gram: Real) -> float:
    """The scale m that relative ridges refer to."""
    return float(np.mean(gram.diagonal())) if len(gram) else 0.0


def factored(matrix: Real, ridge: float, scale: float) -> tuple[F64 | None, float]:
    """The Cholesky factor of matrix + ridge·I, and the ridge, raised until there is one (`native.factorise`).

    None for a matrix of zeros, whose `scale` is 0, or of what rounding left in their place: that may be negative.
    """
    if scale < _LEAST_SCALE:
        return None, ridge
    while True:
        ridged = np.array(matrix, np.float64, order="C")
        ridged.reshape(-1)[:: len(matrix) + 1] += ridge
        if native.factorise(ridged):
            return ridged, ridge
        ridge = max(10 * ridge, _SMALLEST_RIDGE * scale)


def ridge_solve(matrix: Real, target: F64, prior: F64, ridge: float, scale: float) -> F64:
    """(target + ridge·prior)(matrix + ridge·I)⁻¹, with the first larger ridge that factorises."""
    factor, ridge = factored(matrix, ridge, scale)
    return prior.copy() if factor is None else _solved(factor, target + ridge * prior)


def _solved(factor: F64, target: F64) -> F64:
    """target (n, F) times the inverse of the factored matrix."""
    solution = np.array(target, order="C")
    native.solve(factor, solution)
    return solution
