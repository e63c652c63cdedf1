"""Block elimination of inputs from one refitted layer: what each removal costs, and what remains.

With H = G + ρI and W = (Cᵀ + ρW₀)H⁻¹, removing block j raises the objective by tr(W_j [(H⁻¹)_jj]⁻¹ W_jᵀ), and
the elimination of the block from [H⁻¹; W] leaves the inverse and the refit of the rest (Optimal Brain Surgeon: Hassibi
& Stork 1993; by blocks: Frantar & Alistarh 2022).
That is a Cholesky factorisation of H⁻¹ pivoted by cost. As in LAPACK's pstrf only the rows of the pivots and the
diagonal blocks are kept up to date; the trailing matrix follows in one product a panel.
"""

from __future__ import annotations

import numpy as np

from onnxprune import native
from onnxprune.calibration.least_squares import factored, mean_diagonal, principal
from onnxprune.calibration.statistics import Moments
from onnxprune.criteria.problem import Index
from onnxprune.native import F64, Real

_PANEL = 128
_SINGLE_FROM = 1024
_SINGLE_RIDGE = 1e-3


class Elimination:
    """One layer's blocks, removed by position; positions change only in `compact`."""

    def __init__(self, inverse: Real, weight: Real, blocks: int, objective: float) -> None:
        self.objective = objective
        self._blocks, self._size = blocks, len(inverse) // max(1, blocks)
        self._inverse, self._weight = inverse, weight
        self._panel: Real
        self._outputs: Real
        self._reset()

    @property
    def panel_full(self) -> bool:
        """True when the pending updates should be applied by `compact`."""
        return len(self._panel) >= max(_PANEL, 2 * self._size)

    def costs(self) -> F64:
        """(blocks,) the exact increase of the objective by each block; 0 for a removed one."""
        if self._size == 1:
            ratio: F64 = (self._overlap / self._diagonal)[:, 0, 0].astype(np.float64)
            return ratio
        solved = np.linalg.solve(self._diagonal, self._overlap)
        costs: F64 = np.trace(solved, axis1=1, axis2=2).astype(np.float64)
        return costs

    def remove(self, positions: Index) -> F64:
        """Eliminate the blocks at `positions` one after the other; returns the increase that each one caused."""
        columns = (positions[:, None] * self._size + np.arange(self._size)).ravel()
        rows = self._inverse[columns] - self._panel[:, columns].T @ self._panel
        factor = np.linalg.cholesky(rows[:, columns])
        removed = self._weight[:, columns] - self._outputs @ self._panel[:, columns]
        rows, outputs = np.linalg.solve(factor, rows), np.linalg.solve(factor, removed.T)
        self._downdate_blocks(rows, outputs)
        self._diagonal[positions], self._overlap[positions] = np.eye(self._size), 0.0
        self._panel = np.concatenate([self._panel, rows])
        self._outputs = np.concatenate([self._outputs, outputs.T], axis=1)
        increases: F64 = (outputs.astype(np.float64) ** 2).sum(axis=1).reshape(len(positions), -1).sum(axis=1)
        return increases

    def compact(self, keep: Index) -> None:
        """Apply the pending updates and forget every position that is not in `keep`."""
        columns = (keep[:, None] * self._size + np.arange(self._size)).ravel()
        panel: Real = self._panel[:, columns]
        self._inverse = principal(self._inverse, columns) - panel.T @ panel
        self._weight = self._weight[:, columns] - self._outputs @ panel
        self._blocks = len(keep)
        self._reset()

    def _reset(self) -> None:
        shape = (self._blocks, self._size)
        every = np.arange(self._blocks)
        self._diagonal = self._inverse.reshape(*shape, *shape)[every, :, every, :]
        blocks = self._weight.reshape(-1, *shape).transpose(1, 2, 0)
        self._overlap = blocks @ blocks.transpose(0, 2, 1)
        self._panel = np.empty((0, len(self._inverse)), self._inverse.dtype)
        self._outputs = np.empty((len(self._weight), 0), self._weight.dtype)

    def _downdate_blocks(self, rows: Real, outputs: Real) -> None:
        """Bring the diagonal blocks of H⁻¹ and of WᵀW up to date with H⁻¹ −= rowsᵀrows, W −= outputsᵀrows."""
        mixed = outputs @ self._weight - (outputs @ self._outputs) @ self._panel
        mixed -= 0.5 * (outputs @ outputs.T) @ rows
        shape = (-1, self._blocks, self._size)
        split, mixed = rows.reshape(shape), mixed.reshape(shape)
        self._diagonal -= _by_block(split, split)
        change = _by_block(split, mixed)
        self._overlap -= change + change.transpose(0, 2, 1)


def _by_block(left: Real, right: Real) -> Real:
    """(blocks, κ, κ) the sum over q of leftᵀ · right, of (q, blocks, κ) each."""
    if left.shape[2] == 1:
        single: Real = np.einsum("qai,qaj->aij", left, right)
        return single
    return left.transpose(1, 2, 0) @ right.transpose(1, 0, 2)


def start_elimination(weight: Real, moments: Moments, features: Index, ridge: float) -> Elimination:
    """The elimination of the blocks `features` (C, κ), feature indices, −1 for none, of one layer.

    `weight` (n, F) the original, `ridge` relative to the mean input variance. Wide layers run in fp32 once H is
    factorised: the inverse of its factor, whose condition is the root of H's, and a pivoted factorisation lose no
    more than the ridge's inverse, which bounds ‖H⁻¹‖.
    """
    flat = features.ravel()
    single = len(flat) > _SINGLE_FROM and ridge >= _SINGLE_RIDGE
    dtype = np.dtype(np.float32 if single else np.float64)
    scale = mean_diagonal(moments.gram) or 1.0
    alive = moments.gram.diagonal() > 0
    prior: F64 = np.where(alive, weight, 0.0).astype(np.float64, copy=False)
    factor, ridge_used = factored(moments.gram, ridge * scale, scale)
    assert factor is not None
    inverse = factor.astype(dtype, copy=False)
    native.invert(inverse)
    target = moments.cross.T + ridge_used * prior
    solution = target.astype(dtype, copy=False) @ inverse
    objective = moments.energy + ridge_used * float(np.vdot(prior, prior)) - float(np.vdot(solution, target))
    missing = flat < 0
    block_inverse = principal(inverse, flat)
    block_inverse[missing], block_inverse[:, missing] = 0.0, 0.0
    block_inverse[missing, missing] = 1.0
    outputs: Real = np.where(missing, 0.0, solution[:, flat])
    if len(outputs) > len(flat):
        # Only inner products of columns count, and these a triangle of C·κ rows has as well.
        outputs = np.asarray(np.linalg.qr(outputs, mode="r"))
    return Elimination(block_inverse, np.ascontiguousarray(outputs, dtype=dtype), len(features), objective)
