"""The principal eigenvector of a weight Hessian, by products with it alone (Ji, Yang, Yuan 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxprune.native import F64

ITERATIONS, CLOSE = 50, 1e-3


@dataclass(frozen=True, eq=False)
class Principal:
    """The unit vector found, its eigenvalue, and how far the last iteration still moved it.

    `ratio` is by what the last step's move was smaller than the one before: |λ₂/λ₁|, near 1 where the two nearly tie.
    """

    vector: F64
    value: float
    iterations: int
    moved: float
    ratio: float

    @property
    def converged(self) -> bool:
        """Whether it stands still."""
        return self.moved < CLOSE


def principal(
    product: Callable[[F64], F64], start: F64, iterations: int = ITERATIONS, close: float = CLOSE
) -> Principal:
    """Power iteration: v ← Hv / ‖Hv‖ until it moves by less than `close`, its sign aside; zeros where Hv vanishes."""
    vector = start / np.linalg.norm(start)
    moved, ratio, value = np.inf, 1.0, 0.0
    for step in range(1, iterations + 1):
        image = product(vector)
        value, length = float(vector @ image), float(np.linalg.norm(image))
        if not length:
            return Principal(np.zeros_like(start), 0.0, step, 0.0, 0.0)
        following = image / length
        before, moved = moved, float(min(np.linalg.norm(following - vector), np.linalg.norm(following + vector)))
        ratio = moved / before if np.isfinite(before) and before else ratio
        vector = following
        if moved < close:
            break
    return Principal(vector, value, step, moved, ratio)


def strengths(rows: F64) -> F64:
    """(C,) ‖v_k‖₁ of the part of the eigenvector that each unit's filter has, one row a unit."""
    total: F64 = np.abs(rows).sum(axis=1)
    return total
