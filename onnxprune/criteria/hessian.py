"""The principal eigenvector of a weight Hessian, by products with it alone (Ji, Yang, Yuan 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.native import F64

ITERATIONS, CLOSE = 50, 1e-3
SETTLED = 0.05
KEPT, INDEPENDENT = 8, 1e-4
"""Iterates that tell the second eigenvalue, and the least relative length of a direction that counts among them."""


@dataclass(frozen=True, eq=False)
class Principal:
    """The unit vector found, its eigenvalue, how far the last iteration still moved it, and |λ₂/λ₁|."""

    vector: F64
    value: float
    iterations: int
    moved: float
    ratio: float

    @property
    def off(self) -> float:
        """About how far it is from the eigenvector: the moves to come shrink by the ratio each time."""
        return self.moved / max(1 - self.ratio, 1e-12)

    @property
    def settled(self) -> bool:
        """Whether it is near the eigenvector: small moves alone do not tell where two eigenvalues nearly tie."""
        return self.off < SETTLED


def principal(
    product: Callable[[F64], F64], start: F64, iterations: int = ITERATIONS, close: float = CLOSE
) -> Principal:
    """Power iteration: v ← Hv / ‖Hv‖ until it moves by less than `close`, its sign aside; zeros where Hv vanishes."""
    vector = start / np.linalg.norm(start)
    moved, value, step = np.inf, 0.0, 0
    seen: list[tuple[F64, F64]] = []
    while step < iterations and moved >= close:
        image, step = product(vector), step + 1
        value, length = float(vector @ image), float(np.linalg.norm(image))
        if not length:
            return Principal(np.zeros_like(start), 0.0, step, 0.0, 0.0)
        seen = [*seen, (vector, image)] if len(seen) < KEPT else seen
        following = image / length
        moved = float(min(np.linalg.norm(following - vector), np.linalg.norm(following + vector)))
        vector = following
    return Principal(vector, value, step, moved, _ratio(seen))


def _ratio(seen: Sequence[tuple[F64, F64]]) -> float:
    """|λ₂/λ₁| on the space of the first iterates (Rayleigh–Ritz): what they say costs no more products."""
    vectors, images = (np.stack(part, axis=1) for part in zip(*seen, strict=True))
    basis, lengths, turn = np.linalg.svd(vectors, full_matrices=False)
    real = lengths > INDEPENDENT * lengths[0]
    small = basis[:, real].T @ (images @ turn[real].T / lengths[real])
    sizes = np.sort(np.abs(np.linalg.eigvalsh((small + small.T) / 2)))
    return float(sizes[-2] / sizes[-1]) if len(sizes) > 1 and sizes[-1] else 0.0


def strengths(rows: F64) -> F64:
    """(C,) ‖v_k‖₁ of the part of the eigenvector that each unit's filter has, one row a unit."""
    total: F64 = np.abs(rows).sum(axis=1)
    return total
