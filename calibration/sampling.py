"""Which rows of each layer the statistics use: the same in both sweeps, and no more than they are worth."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from onnxprune.calibration.rows import Positions, position_count, spread
from onnxprune.labels import Shape
from onnxprune.op_rules.facts import Linear
from onnxprune.trace import Trace

LEAST_ROWS_PER_FEATURE = 20
CHEAP_PRODUCT = 4e9
"""A Gram matrix of so many multiply–adds is a fraction of a second: take all rows it allows,"""
CHEAP_ROWS = 1.6e7
"""if they hold no more numbers than these, for each is copied twice."""
HELD_OUT = 8
"""One row in so many judges and does not solve."""


@dataclass(frozen=True)
class Sampling:
    """How many of a layer's rows to use: `samples` calibration inputs in all, shapes as in `trace`."""

    samples: int
    trace: Trace
    seed: int

    def share(self, linear: Linear) -> float:
        """The share of a layer's positions: twenty rows a feature, and as many more as cost next to nothing."""
        shape = self.trace.shape(linear.x)
        total = position_count(linear, shape) / self.trace.batch * self.samples
        features, outputs = linear.features.shape[1], linear.outputs.shape[1]
        cheap = min(CHEAP_PRODUCT / features**2, CHEAP_ROWS / (features + outputs)) / linear.groups
        wanted = max(LEAST_ROWS_PER_FEATURE * features, cheap)
        return float(min(1.0, wanted / max(total, 1.0)))

    def positions(self, linear: Linear, input_shape: Shape, batch: int) -> Positions:
        """The positions of the layer in batch number `batch`, whose input has this shape."""
        total = position_count(linear, input_shape)
        wanted = int(np.ceil(self.share(linear) * total))
        return spread(total, wanted, crc32(f"{self.seed}/{batch}/{linear.node.name}".encode()))


def held_out(rows: int, batch: int) -> slice:
    """The rows of a batch that judge, always its end: the last eighth; of small batches, every eighth batch whole."""
    if rows >= HELD_OUT:
        return slice(rows - rows // HELD_OUT, rows)
    return slice(0, rows) if batch % HELD_OUT == HELD_OUT - 1 else slice(rows, rows)
