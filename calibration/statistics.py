"""Streaming sums of a layer's inputs and targets, and the centred moments every solver works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.parallel import each

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_CHUNK_ROWS = 4096
_CENTRED_ROWS = 32
"""Few enough to stay in the cache between two operations."""
_LARGE_PRODUCT, _BLOCKS = 2e8, 4
_PROBE_ROWS = 64
_SHIFT_ABOVE = 16.0


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments, divided by the number of rows.

    `mean_x` (F,), `mean_y` (n,), `gram` (F, F) = E[(x−μ)(x−μ)ᵀ], `cross` (F, n) = E[(x−μ)(y−μ)ᵀ],
    `energies` (n,) = E(y−μ)² per output, `count` rows seen.
    """

    mean_x: F64
    mean_y: F64
    gram: F64
    cross: F64
    energies: F64
    count: int

    @property
    def energy(self) -> float:
        """E‖y − μ‖², the output's variance summed over outputs."""
        return float(self.energies.sum())

    def with_linear_targets(self, weight: F64) -> Moments:
        """Moments of x and Y = X Wᵀ, `weight` (n, F), derived from the Gram matrix alone."""
        cross = self.gram @ weight.T
        energies = np.maximum(np.einsum("fn,nf->n", cross, weight), 0.0)
        return Moments(self.mean_x, weight @ self.mean_x, self.gram, cross, energies, self.count)


@dataclass(eq=False)
class Sums:
    """Raw sums over rows: `count` N, `x` (F,), `y` (n,), `gram` XᵀX (F, F), `cross` XᵀY (F, n), `yy` Σy² (n,).

    Products run in fp32 a chunk of rows at a time and accumulate in fp64. Of `gram` the upper triangle counts.
    """

    count: int
    x: F64
    y: F64
    gram: F64
    cross: F64
    yy: F64

    @classmethod
    def zeros(cls, features: int, outputs: int = 0) -> Sums:
        """Empty sums; with `outputs` = 0 only the input side is collected (see `Moments.with_linear_targets`)."""
        gram, cross = np.zeros((features, features)), np.zeros((features, outputs))
        return cls(0, np.zeros(features), np.zeros(outputs), gram, cross, np.zeros(outputs))

    def update(self, inputs: F32, targets: F32 | None = None) -> None:
        """Add the rows of `inputs` (N, F) and, unless collected input-only, `targets` (N, n)."""
        if (targets is None) != (self.y.size == 0):
            raise ValueError(f"sums for {self.y.size} outputs got {'no' if targets is None else 'some'} targets")
        shift_x = _shift(inputs)
        shift_y = None if targets is None else _shift(targets)
        for rows in _row_chunks(len(inputs), len(self.x)):
            x, sum_x = _shifted(inputs[rows], shift_x)
            y, sum_y = (None, None) if targets is None else _shifted(targets[rows], shift_y)
            self._add_products(x, y)
            self.count += len(x)
            self.x += sum_x if shift_x is None else sum_x + len(x) * shift_x
            if shift_x is not None:
                self.gram += _unshift(shift_x, sum_x, shift_x, sum_x, len(x))
            if y is not None and sum_y is not None:
                self._add_targets(len(x), sum_x, shift_x, y, sum_y, shift_y)

    def _add_products(self, x: F32, y: F32 | None) -> None:
        """XᵀX and XᵀY: large ones a block of columns at a time, on all cores."""
        features = len(self.x)
        step = features if len(x) * features**2 < _LARGE_PRODUCT else -(-features // _BLOCKS)
        blocks = [slice(start, min(start + step, features)) for start in range(0, features, step)]

        def add(pair: tuple[slice, slice]) -> None:
            left, right = pair
            if left == right:
                self.gram[left, left] += x[:, left].T @ x[:, left]
                if y is not None:
                    self.cross[left] += x[:, left].T @ y
            else:
                self.gram[left, right] += x[:, left].T @ x[:, right]

        each(add, [(left, right) for i, left in enumerate(blocks) for right in blocks[i:]])

    def _add_targets(self, rows: int, sum_x: F64, shift_x: F64 | None, y: F32, sum_y: F64, shift_y: F64 | None) -> None:
        squares = np.einsum("ij,ij->j", y, y, dtype=np.float64)
        if shift_x is not None or shift_y is not None:
            zero_x = np.zeros(len(self.x)) if shift_x is None else shift_x
            shift_y = np.zeros(len(self.y)) if shift_y is None else shift_y
            self.cross += _unshift(zero_x, sum_x, shift_y, sum_y, rows)
            squares += shift_y * (2 * sum_y + rows * shift_y)
        self.yy += squares
        self.y += sum_y if shift_y is None else sum_y + rows * shift_y

    def centred(self, reuse: bool = False) -> Moments:
        """The centred moments a row; raises ValueError where no row was seen.

        With `reuse` they take the memory of these sums, which are worth nothing afterwards.
        """
        if self.count == 0:
            raise ValueError("no rows were collected: the calibration data never reached this layer")
        mean_x, mean_y = self.x / self.count, self.y / self.count
        # A constant feature leaves rounding noise of either sign; noise must not look like a live channel.
        noise = 1e-12 * self.gram.diagonal() / self.count
        gram = self.gram if reuse else np.empty_like(self.gram)
        for start in range(0, len(gram), _CENTRED_ROWS):
            self._centre_rows(slice(start, min(start + _CENTRED_ROWS, len(gram))), mean_x, gram)
        dead = gram.diagonal() <= noise
        gram[dead], gram[:, dead] = 0.0, 0.0
        cross = self.cross / self.count - np.outer(mean_x, mean_y)
        cross[dead] = 0.0
        energies = np.maximum(self.yy / self.count - mean_y**2, 0.0)
        return Moments(mean_x, mean_y, gram, cross, energies, self.count)

    def _centre_rows(self, rows: slice, mean: F64, gram: F64) -> None:
        """Some rows of the centred matrix from their diagonal on, and by symmetry the columns below it."""
        right = slice(rows.start, None)
        block = np.divide(self.gram[rows, right], self.count, out=gram[rows, right])
        block -= np.outer(mean[rows], mean[right])
        corner = block[:, : len(block)]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        gram[rows.stop :, rows] = block[:, len(block) :].T


class Tally:
    """Sums of rows that come in small lots: they wait until one product of many is worth adding F × F numbers."""

    def __init__(self, features: int, outputs: int = 0) -> None:
        """No rows yet; `outputs` as in `Sums.zeros`."""
        self._sums = Sums.zeros(features, outputs)
        self._room = max(1, features)
        self._inputs = np.empty((self._room, features), np.float32)
        self._targets = np.empty((self._room, outputs), np.float32) if outputs else None
        self._rows = 0

    @property
    def count(self) -> int:
        """How many rows were added."""
        return self._sums.count + self._rows

    def add(self, inputs: F32, targets: F32 | None = None) -> None:
        """Add the rows of `inputs` (N, F) and, unless collected input-only, `targets` (N, n)."""
        if len(inputs) >= self._room:
            self._flush()
            self._sums.update(inputs, targets)
            return
        while len(inputs):
            taken = min(len(inputs), self._room - self._rows)
            to = slice(self._rows, self._rows + taken)
            self._inputs[to] = inputs[:taken]
            inputs = inputs[taken:]
            if self._targets is not None and targets is not None:
                self._targets[to] = targets[:taken]
                targets = targets[taken:]
            self._rows += taken
            if self._rows == self._room:
                self._flush()

    def sums(self) -> Sums:
        """The sums of all rows so far."""
        self._flush()
        return self._sums

    def moments(self) -> Moments:
        """The centred moments of all rows, in the memory of the sums: the tally ends with it."""
        self._flush()
        sums = self._sums
        del self._inputs, self._targets, self._sums
        return sums.centred(reuse=True)

    def _flush(self) -> None:
        if self._rows:
            rows, self._rows = slice(0, self._rows), 0
            self._sums.update(self._inputs[rows], None if self._targets is None else self._targets[rows])


def _row_chunks(rows: int, features: int) -> Iterator[slice]:
    # Long enough that adding F × F sums in fp64 stays small beside the product, short enough for fp32.
    step = max(_CHUNK_ROWS, 2 * features)
    return (slice(start, start + step) for start in range(0, rows, step))


def _shift(values: F32) -> F64 | None:
    """A constant to subtract from each column in fp32 where the mean would swamp the variance, else None."""
    probe = values[:: max(1, len(values) // _PROBE_ROWS)].astype(np.float64)
    if not probe.size:
        return None
    mean, variance = probe.mean(axis=0), probe.var(axis=0)
    if not np.any(mean**2 > _SHIFT_ABOVE * variance):
        return None
    rounded: F64 = mean.astype(np.float32).astype(np.float64)
    return rounded


def _shifted(values: F32, shift: F64 | None) -> tuple[F32, F64]:
    x = np.ascontiguousarray(values, dtype=np.float32)
    if shift is not None:
        x = x - shift.astype(np.float32)
    return x, (np.ones(len(x), np.float32) @ x).astype(np.float64)


def _unshift(shift_a: F64, sum_a: F64, shift_b: F64, sum_b: F64, rows: int) -> F64:
    """What Σ(a + s)(b + t)ᵀ has beyond Σabᵀ."""
    correction: F64 = np.outer(shift_a, sum_b + rows * shift_b)
    correction += np.outer(sum_a, shift_b)
    return correction
