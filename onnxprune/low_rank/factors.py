"""A weight as a product of two, and the best such products of a least-squares fit, of every rank."""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Literal

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from onnxprune.native import F64

FEW, MANY = 8, 256
"""Of more than `MANY` eigenvectors no more than a `FEW`th are computed one by one, which is faster then."""


Kind = Literal["channel", "spatial-svd"]


@dataclass(frozen=True)
class Form:
    """What a layer may become: by which kind of product, with so many channels in between."""

    rank: int
    kind: Kind = "channel"

    def kept(self, kernel: tuple[int, ...], stretch: float = 1.0) -> tuple[float, float]:
        """Numbers of the two factors for each column and for each row of the weight.

        Those of the first count `stretch` times: so many positions it makes for one of the layer's own.
        """
        if self.kind == "channel":
            return self.rank, self.rank
        return self.rank / kernel[1] * stretch, self.rank * kernel[1]

    def within(self, outputs: int, features: int, kernel: tuple[int, ...]) -> "Form":
        """The same, of no more channels than a weight of this size can use."""
        wide = 1 if self.kind == "channel" else kernel[1]
        return Form(min(self.rank, outputs * wide, features // wide), self.kind)


@dataclass(frozen=True, eq=False)
class Factors:
    """A weight (n, F) as `second` (n, k) times `first` (k, F).

    Where a convolution becomes one along either side, `first` is (k, C, kh) and `second` (n, k, kw).
    """

    first: F64
    second: F64

    @property
    def rank(self) -> int:
        """k."""
        return len(self.first)

    def product(self) -> F64:
        """The weight (n, F)."""
        if self.first.ndim == 2:
            return self.second @ self.first
        windows = np.tensordot(self.second, self.first, (1, 0))  # (n, kw, C, kh)
        return np.ascontiguousarray(windows.transpose(0, 2, 3, 1)).reshape(len(windows), -1)


def by_singular_values(weight: F64, rank: int) -> Factors:
    """The nearest product to a weight (n, F), whatever its inputs: the truncated SVD, the root of σ on either side."""
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    roots = np.sqrt(sigma[:rank])
    return Factors(roots[:, None] * right[:rank], left[:, :rank] * roots)


@dataclass(frozen=True, eq=False)
class Responses:
    """Reduced-rank regression (Izenman 1975): what a fit `weight` (n, F) gives, and how that varies (n, n).

    `spread` = W G Wᵀ with the moments G of its inputs. The weight of rank k whose outputs are nearest to those of W is
    its projection on the k first eigenvectors, and costs the sum of the eigenvalues left out. (Were the ridge of the
    fit counted too, ranks would go into directions in which nothing ever varies.)
    """

    weight: F64
    spread: F64

    @cached_property
    def energies(self) -> F64:
        """(n,) the eigenvalues of the spread, falling."""
        found: F64 = np.maximum(np.linalg.eigvalsh(self.spread)[::-1], 0.0)
        return found

    def factors(self, rank: int) -> Factors:
        """The best product of this rank."""
        vectors = leading(self.spread, rank)
        return Factors(vectors.T @ self.weight, vectors)


def leading(matrix: F64, count: int) -> F64:
    """(n, count) the eigenvectors of a symmetric matrix that belong to its largest eigenvalues, largest first."""
    size = len(matrix)
    if size > MANY and count * FEW < size:
        _, vectors = eigsh(matrix, count, v0=np.full(size, 1 / sqrt(size)))
    else:
        _, vectors = eigh(matrix, subset_by_index=(size - count, size - 1))
    found: F64 = np.ascontiguousarray(vectors[:, ::-1])
    return found
