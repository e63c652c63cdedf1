"""Which rows of each layer the statistics use: the same in both sweeps, and no more than they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from zlib import crc32

from onnxprune.calibration.allowance import USUAL, Allowance
from onnxprune.calibration.padding import Real, real_positions
from onnxprune.calibration.rows import Positions, position_count, spread
from onnxprune.graph import Array
from onnxprune.labels import Shape
from onnxprune.op_rules.facts import Linear
from onnxprune.trace import Trace

LEAST_ROWS_PER_FEATURE, MOST_ROWS_PER_FEATURE = 10, 64
"""On ResNet-20 the accuracy was the same with 50 rows a feature as with 800."""
LEAST_TO_CHOOSE = 2.5
"""Rows a feature that tell which channels can go: which are less than what it takes to solve for the rest."""
ALL_PRODUCTS, ALL_NUMBERS = 9e10, 3.5e8
"""Multiply–adds of all Gram matrices, and numbers in all rows, that a second or two pays for: as many rows as that."""
DENSEST = 0.25
"""Take at most this share of an input's positions before more inputs are not worth their pass: neighbours are alike."""
LEAST_INPUTS = 64
"""However few rows a layer needs, they come from so many inputs, or all."""
HELD_OUT = 8
"""One row in so many judges and does not solve."""


SEQUENCES = ("gemm", "matmul")
"""Layers that work position by position, so that a mask (batch, length) tells which of their rows are padding."""


@dataclass(frozen=True)
class Sampling:
    """How many rows a layer gets: of `samples` inputs in `batches`, when `layers` share the time, and for what sums."""

    samples: int
    batches: int
    layers: int
    trace: Trace
    seed: int
    allowance: Allowance = USUAL
    _totals: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _real: dict[int, Real] = field(default_factory=dict, init=False, repr=False, compare=False)

    def note(self, batch: int, feeds: Mapping[str, Array]) -> None:
        """Remember which positions of a batch are padding: no row is taken there, in either sweep."""
        if (real := real_positions(feeds)) is not None:
            self._real[batch] = real

    def rows(self, linear: Linear) -> float:
        """Ten rows a feature, and up to 64 as far as those cost next to nothing; never more than there are."""
        return min(self._all(linear), self._wanted(linear, LEAST_ROWS_PER_FEATURE))

    def step_to_choose(self, linear: Linear) -> int:
        """One row in so many is enough to choose channels with: 2.5 a feature, or more where they cost nothing."""
        return max(1, int(self.rows(linear) / self._wanted(linear, LEAST_TO_CHOOSE)))

    def used(self, linear: Linear) -> int:
        """How many of the batches the layer needs, from the first on."""
        share = max(self.rows(linear) / self._all(linear) / DENSEST, LEAST_INPUTS / self.samples)
        return min(self.batches, ceil(self.batches * share))

    def positions(self, linear: Linear, input_shape: Shape, batch: int) -> Positions:
        """The positions of the layer in batch number `batch`, whose input has this shape; none past `used`."""
        if batch >= self.used(linear):
            return spread(0, 0, 0)
        share = self.rows(linear) / self._all(linear) * self.batches / self.used(linear)
        total = position_count(linear, input_shape)
        where = spread(total, ceil(min(share, 1.0) * total), crc32(f"{self.seed}/{batch}/{linear.node.name}".encode()))
        real = self._real.get(batch)
        padded = real is not None and linear.kind in SEQUENCES and input_shape[:-1] in (real.shape, (real.size,))
        return where[real.reshape(-1)[where]] if real is not None and padded else where

    def _wanted(self, linear: Linear, least: float) -> float:
        """At least so many rows a feature, and more as far as all layers together can afford it."""
        features, outputs = linear.features.shape[1], linear.outputs.shape[1]
        cheap = min(ALL_PRODUCTS / features**2, ALL_NUMBERS / (features + outputs)) / linear.groups / self.layers
        return float(max(least * features, min(MOST_ROWS_PER_FEATURE * features, cheap)))

    def _all(self, linear: Linear) -> float:
        name = linear.node.name or ""
        if name not in self._totals:
            positions = position_count(linear, self.trace.shape(linear.x)) / self.trace.batch
            self._totals[name] = max(1.0, positions * self.samples)
        return self._totals[name]


def held_out(rows: int, batch: int) -> slice:
    """The rows of a batch that judge, always its end: the last eighth; of small batches, every eighth batch whole."""
    if rows >= HELD_OUT:
        return slice(rows - rows // HELD_OUT, rows)
    return slice(0, rows) if batch % HELD_OUT == HELD_OUT - 1 else slice(rows, rows)
