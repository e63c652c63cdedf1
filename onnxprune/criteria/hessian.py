"""The leading eigenvectors of a Hessian, by products with it alone (after Ji, Yang, Yuan 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.native import F64

COUNT = 4
"""Eigenvectors that count: one alone holds a fifth of a group's curvature or less (docs/decisions/0024)."""
PRODUCTS, CLOSE = 50, 0.03
NOTHING, SMALL = 1e-6, 1e-3
"""Relative length of what is new in an iterate, and relative size of an eigenvalue, that count for nothing."""


@dataclass(frozen=True, eq=False)
class Leading:
    """Eigenvalues (k,) by falling magnitude, unit vectors (C, k), and the products that it took.

    `off` is the largest ‖Hv − λv‖ / |λ| of them.
    """

    values: F64
    vectors: F64
    products: int
    off: float

    @property
    def settled(self) -> bool:
        """Whether they are eigenvectors but for what does not matter."""
        return self.off < CLOSE

    def damage(self) -> F64:
        """(C,) Σ |λ| v²: what a step along each coordinate costs, by the curvature that these vectors hold."""
        total: F64 = self.vectors**2 @ np.abs(self.values)
        return total


def leading(
    product: Callable[[F64], F64], start: F64, count: int = COUNT, most: int = PRODUCTS, close: float = CLOSE
) -> Leading:
    """Power iteration that forgets no iterate: eigenvectors on the span of all of them (Rayleigh–Ritz, so Lanczos).

    Ends when `count` of them are `close`, or the span is the whole space, or after `most` products.
    """
    found = Leading(np.zeros(0), np.zeros((start.size, 0)), 0, 0.0)
    basis: list[F64] = []
    images: list[F64] = []
    following: F64 | None = start / np.linalg.norm(start)
    while following is not None and len(basis) < min(most, start.size):
        basis.append(following)
        images.append(product(following))
        found = _on_span(np.stack(basis, 1), np.stack(images, 1), count)
        if len(basis) >= count and found.off < close:
            break
        following = _new_part(images[-1], basis)
    return found


def _on_span(basis: F64, images: F64, count: int) -> Leading:
    small = basis.T @ images
    values, turn = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-np.abs(values))[:count]
    values, turn = values[order], turn[:, order]
    vectors = basis @ turn
    misses = np.linalg.norm(images @ turn - vectors * values, axis=0)
    sizes = np.abs(values)
    off = np.max(misses / np.maximum(sizes, SMALL * sizes[0])) if sizes[0] else 0.0
    return Leading(values, vectors, basis.shape[1], float(off))


def _new_part(image: F64, basis: Sequence[F64]) -> F64 | None:
    """The unit vector of what is in an iterate and not in the basis; None where that is nothing."""
    known, rest, length = np.stack(basis, 1), image, float(np.linalg.norm(image))
    for _ in range(2):  # once leaves rounding of the part that is taken away
        rest = rest - known @ (known.T @ rest)
    left = float(np.linalg.norm(rest))
    return rest / left if left > NOTHING * length else None
