"""Least squares for a new head: raw sums of what it reads and should give, in double precision, and rows that judge."""

from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.least_squares import HeldRows, RidgeFactor, choose_ridge
from onnxprune.calibration.sampling import held_out
from onnxprune.calibration.statistics import Moments
from onnxprune.graph import Array
from onnxprune.native import F64

RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""Over the mean variance of a channel. There are no trained weights to stay near: the ridge pulls toward none."""
UNJUDGED = 1e-2


def channel_means(array: Array, axis: int) -> F64:
    """(N, C): the means that a head reads of an array (N, …) with its channels along `axis`."""
    others = tuple(other for other in range(1, array.ndim) if other != axis)
    return np.asarray(array.mean(axis=others, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Fit:
    """A layer, weight (n, C) and bias (n,), solved on all rows, and how one solved without the held-out rows did there.

    `error` is the share of the variance of what it should give that it misses; both are None without such rows.
    """

    weight: F64
    bias: F64
    ridge: float
    error: float | None
    same_class: float | None


@dataclass(eq=False)
class _Sums:
    count: int
    x: F64
    y: F64
    xx: F64
    xy: F64
    yy: F64

    def add(self, x: F64, y: F64) -> None:
        self.count += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.einsum("kn,kn->n", y, y)

    def with_others(self, other: "_Sums") -> "_Sums":
        count = self.count + other.count
        pairs = ((self.x, other.x), (self.y, other.y), (self.xx, other.xx), (self.xy, other.xy), (self.yy, other.yy))
        return _Sums(count, *(a + b for a, b in pairs))

    def moments(self) -> Moments:
        mean_x, mean_y = self.x / self.count, self.y / self.count
        gram, cross = self.xx / self.count - np.outer(mean_x, mean_x), self.xy / self.count - np.outer(mean_x, mean_y)
        dead = gram.diagonal() <= 1e-13 * self.xx.diagonal() / self.count  # rounding of a channel that never varies
        gram[dead], gram[:, dead], cross[dead] = 0.0, 0.0, 0.0
        return Moments(mean_x, mean_y, gram, cross, np.maximum(self.yy / self.count - mean_y**2, 0.0), self.count)


def _empty(channels: int, numbers: int) -> _Sums:
    shapes = ((channels,), (numbers,), (channels, channels), (channels, numbers), (numbers,))
    return _Sums(0, *(np.zeros(shape) for shape in shapes))


@dataclass(eq=False)
class HeadSums:
    """Rows of channel means (k, C) and of what the original's last layer gives for them (k, n), summed as they come."""

    channels: int
    numbers: int
    held: list[tuple[F64, F64]] = field(default_factory=list)
    batches: int = 0

    def __post_init__(self) -> None:
        self._solving, self._judging = (_empty(self.channels, self.numbers) for _ in range(2))

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._solving.count + self._judging.count

    def add(self, x: F64, y: F64) -> None:
        """Add the rows of one batch."""
        held = held_out(len(x), self.batches)
        self.batches += 1
        self._solving.add(x[: held.start], y[: held.start])
        if held.start < len(x):
            self._judging.add(x[held], y[held])
            self.held.append((x[held], y[held]))

    def solve(self, classes: bool) -> Fit:
        """The layer with the strongest ridge that is as good as any on rows held out; then on all rows.

        `classes`: the numbers are scores of classes, of which the largest counts.
        """
        prior = np.zeros((self.numbers, self.channels))
        judged = bool(self.held) and self._solving.count > 0
        ridge, error, same = self._judged(prior, classes) if judged else (UNJUDGED, None, None)
        weight, bias = _solved(self._solving.with_others(self._judging).moments(), ridge, prior)
        return Fit(weight, bias, ridge, error, same)

    def _judged(self, prior: F64, classes: bool) -> tuple[float, float, float | None]:
        moments = self._solving.moments()
        rows = HeldRows([(x.astype(np.float32), y.astype(np.float32)) for x, y in self.held], moments.mean_x)
        ridge = choose_ridge(moments, rows, prior, RIDGES)
        weight, bias = _solved(moments, ridge, prior)
        x, y = (np.concatenate(part) for part in zip(*self.held, strict=True))
        found = x @ weight.T + bias
        energy = float(np.square(y - y.mean(axis=0)).sum())
        error = float(np.square(found - y).sum()) / max(energy, 1e-30)
        same = float(np.mean(found.argmax(1) == y.argmax(1))) if classes and self.numbers > 1 else None
        return ridge, error, same


def _solved(moments: Moments, ridge: float, prior: F64) -> tuple[F64, F64]:
    weight = RidgeFactor(moments.gram, ridge).solve(moments.cross, prior)
    return weight, moments.mean_y - weight @ moments.mean_x
