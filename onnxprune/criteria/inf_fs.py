"""Infinite Feature Selection (Roffo, Melzi, Cristani 2015): how much each column counts over paths of any length.

The formula is that of version 4 of the authors' code. Version 5.1 swaps the roles of α and scales the matrix so far
down that only the row sums are left of it.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigvalsh, solve
from scipy.sparse.linalg import eigsh
from scipy.stats import rankdata

from onnxprune.native import F64

ALPHA, FACTOR = 0.5, 0.99
SMALL = 256
"""Up to here all eigenvalues are computed, beyond it only the largest."""


def inf_fs(rows: F64, alpha: float = ALPHA, factor: float = FACTOR) -> F64:
    """(d,) the score of each column of `rows` (N, d), higher is better.

    A = α(1 − |Spearman|) + (1 − α)σ, with σ_ij = max(std_i, std_j) scaled to 0 … 1; r = factor / spectral radius of A;
    s = ((I − rA)⁻¹ − I)·1. Where A is zero (one column, columns alike) every column counts 1.
    """
    matrix = alpha * (1 - np.abs(_spearman(rows))) + (1 - alpha) * _spread(rows)
    radius = _radius(matrix)
    if radius <= np.finfo(np.float64).eps:
        return np.ones(rows.shape[1])
    ones = np.ones(rows.shape[1])
    scores: F64 = solve(np.eye(len(ones)) - factor / radius * matrix, ones, assume_a="pos") - 1
    return scores


def _spearman(rows: F64) -> F64:
    """(d, d) rank correlations, ties by their mean rank; 0 where a column is constant."""
    ranks = rankdata(rows, axis=0)
    ranks -= ranks.mean(axis=0)
    norms = np.linalg.norm(ranks, axis=0)
    ranks /= np.where(norms > 0, norms, 1)
    return np.asarray(np.clip(ranks.T @ ranks, -1, 1))


def _spread(rows: F64) -> F64:
    """(d, d) the larger of two standard deviations, min–max scaled; 0 where all are equal."""
    deviation = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
    larger = np.maximum.outer(deviation, deviation)
    larger -= larger.min()
    return np.asarray(larger / (larger.max() or 1))


def _radius(matrix: F64) -> float:
    """The largest eigenvalue of a symmetric matrix without negative entries: its spectral radius."""
    if len(matrix) <= SMALL:
        return float(eigvalsh(matrix)[-1])
    return float(eigsh(matrix, k=1, which="LA", v0=np.ones(len(matrix)), return_eigenvectors=False)[0])
