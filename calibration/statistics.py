"""Streaming sums of a layer's inputs and targets, and the centred moments every solver works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.native import F32, F64, Real, add_product, add_square, mirror

_LOT = 512
"""Rows of one product: enough that it takes longer than going through the F × F sums."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments, divided by the number of rows.

    `mean_x` (F,), `mean_y` (n,), `gram` (F, F) = E[(x−μ)(x−μ)ᵀ], `cross` (F, n) = E[(x−μ)(y−μ)ᵀ],
    `energies` (n,) = E(y−μ)² per output, `count` rows seen. The one large matrix, `gram`, may be of fp32.
    """

    mean_x: F64
    mean_y: F64
    gram: Real
    cross: F64
    energies: F64
    count: int

    @property
    def energy(self) -> float:
        """E‖y − μ‖², the output's variance summed over outputs."""
        return float(self.energies.sum())

    def with_linear_targets(self, weight: Real) -> Moments:
        """Moments of x and Y = X Wᵀ, `weight` (n, F), derived from the Gram matrix alone."""
        cross = (self.gram @ weight.T.astype(self.gram.dtype)).astype(np.float64)
        energies = np.maximum(np.einsum("fn,nf->n", cross, weight), 0.0)
        return Moments(self.mean_x, weight @ self.mean_x, self.gram, cross, energies, self.count)


class Tally:
    """Sums over rows of inputs (F) and targets (n), in fp32, less a constant near their mean.

    A mean far above the spread would leave nothing of it. Rows wait until one product of many is worth its while.
    """

    def __init__(self, features: int, outputs: int = 0) -> None:
        """No rows yet; with `outputs` = 0 only the input side is summed (see `Moments.with_linear_targets`)."""
        self.count = 0
        self._rows, self._targets = (np.empty((_LOT, size), np.float32) for size in (features, outputs))
        self._waiting = 0
        self._shift: tuple[F32, F32] | None = None
        self._gram, self._cross = np.zeros((features, features), np.float32), np.zeros((features, outputs), np.float32)
        self._x, self._y, self._yy = np.zeros(features), np.zeros(outputs), np.zeros(outputs)

    def add(self, inputs: F32, targets: F32 | None = None) -> None:
        """Add the rows of `inputs` (N, F) and, unless summed without, `targets` (N, n)."""
        if (targets is None) != (self._y.size == 0):
            raise ValueError(f"sums for {self._y.size} outputs got {'no' if targets is None else 'some'} targets")
        if targets is None:
            targets = np.empty((len(inputs), 0), np.float32)
        if self._shift is None and len(inputs):
            self._shift = _middle(inputs), _middle(targets)
        while len(inputs):
            taken = min(len(inputs), len(self._rows) - self._waiting)
            self._wait(inputs[:taken], targets[:taken])
            inputs, targets = inputs[taken:], targets[taken:]

    def absorb(self, other: Tally) -> None:
        """Add the rows that another tally of the same sizes has seen."""
        other.settle()
        if other._shift is None:
            return
        if self._shift is None:
            self._shift = other._shift
        # The other took another constant off: x − a = (x − b) + (b − a).
        dx, dy = (b.astype(np.float64) - a for a, b in zip(self._shift, other._shift, strict=True))
        x, y, n = other._x, other._y, other.count
        left, right, targets = (
            np.stack(three).astype(np.float32) for three in ((x, dx, n * dx), (dx, x, dx), (dy, y, dy))
        )
        self._gram += other._gram
        self._cross += other._cross
        add_product(self._gram, left, right)
        add_product(self._cross, left, targets)
        self._x += x + n * dx
        self._y += y + n * dy
        self._yy += other._yy + dy * (2 * y + n * dy)
        self.count += other.count

    def moments(self) -> Moments:
        """The centred moments a row; raises ValueError where no row was seen."""
        if self._shift is None:
            raise ValueError("no rows were collected: the calibration data never reached this layer")
        self.settle()
        mean_x, mean_y = self._x / self.count, self._y / self.count
        gram = self._gram / np.float32(self.count)
        means = mean_x[None].astype(np.float32)
        add_product(gram, -means, means)
        mirror(gram)
        shift_x, shift_y = (shift.astype(np.float64) for shift in self._shift)
        # A constant feature leaves rounding noise of either sign; noise must not look like a live channel.
        dead = gram.diagonal() <= 1e-12 * (self._gram.diagonal() / self.count + shift_x**2)
        gram[dead], gram[:, dead] = 0.0, 0.0
        cross = self._cross / self.count - np.outer(mean_x, mean_y)
        cross[dead] = 0.0
        energies = np.maximum(self._yy / self.count - mean_y**2, 0.0)
        return Moments(mean_x + shift_x, mean_y + shift_y, gram, cross, energies, self.count)

    def _wait(self, inputs: F32, targets: F32) -> None:
        """Put rows, no more than there is room for, behind those that wait."""
        assert self._shift is not None
        to = slice(self._waiting, self._waiting + len(inputs))
        np.subtract(inputs, self._shift[0], out=self._rows[to])
        np.subtract(targets, self._shift[1], out=self._targets[to])
        self.count += len(inputs)
        self._waiting += len(inputs)
        if self._waiting == len(self._rows):
            self.settle()

    def settle(self) -> None:
        """Sum the rows that wait; from then on several threads may ask for the moments."""
        x, y = self._rows[: self._waiting], self._targets[: self._waiting]
        self._waiting = 0
        if not len(x):
            return
        add_square(self._gram, x)
        add_product(self._cross, x, y)
        ones = np.ones(len(x), np.float32)
        self._x += ones @ x
        self._y += ones @ y
        self._yy += np.einsum("ij,ij->j", y, y, dtype=np.float64)


def _middle(values: F32) -> F32:
    """The mean of some rows; zero where it is not finite, which then shows in the sums."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(np.isfinite(mean), mean, np.float32(0))
