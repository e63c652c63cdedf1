"""Inputs made up for a model when no data is given: seeded, shaped and ranged as the graph suggests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxprune.calibration.bind import infer_layout
from onnxprune.calibration.inputs import InputSpec, batch_axes, is_image
from onnxprune.calibration.integers import integers, is_mask
from onnxprune.calibration.leaves import Leaves, dead_leaves
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]

# Below this side there is no spatial structure to imitate.
_MIN_SIDE = 8
_LEAVES = Leaves()


@dataclass(frozen=True)
class SyntheticSource:
    """Seeded batches; sample i depends on (seed, i) alone, whatever the batch size, and is the same in every pass.

    Images are dead leaves with the parameters `leaves`.
    """

    specs: tuple[InputSpec, ...]
    samples: int
    batch_size: int
    seed: int
    description: str
    leaves: Leaves = _LEAVES
    synthetic: bool = True

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield feeds; an input without batch axis holds the values made for sample 0."""
        axes = batch_axes(self.specs)
        for start in range(0, self.samples, self.batch_size):
            rows = range(start, min(start + self.batch_size, self.samples))
            yield {spec.name: self._feed(at, axes[spec.name], rows) for at, spec in enumerate(self.specs)}

    def _feed(self, at: int, axis: int | None, rows: range) -> Array:
        spec = self.specs[at]
        if axis is None:
            return self._sample(at, 0, _sizes(spec.shape))
        shape = _sizes(spec.shape[:axis] + spec.shape[axis + 1 :])
        made = [self._sample(at, row, shape) for row in rows]
        return np.ascontiguousarray(np.stack(made, axis))

    def _sample(self, at: int, row: int, shape: tuple[int, ...]) -> Array:
        return _sample(self.specs[at], shape, self.leaves, np.random.default_rng((self.seed, row, at)), self.specs)


def _sample(
    spec: InputSpec, shape: tuple[int, ...], leaves: Leaves, rng: np.random.Generator, specs: Sequence[InputSpec]
) -> Array:
    """Values for one sample (its shape without the batch axis), in the dtype and range the input suggests."""
    if is_image(spec):
        field = _image(spec, shape, leaves, rng)
        if spec.dtype == np.uint8:
            return np.clip(np.rint(127.5 + 64 * field), 0, 255).astype(np.uint8)
        return (spec.centre + spec.spread * field).astype(spec.dtype)
    if spec.dtype == np.bool_ or np.issubdtype(spec.dtype, np.integer):
        return integers(spec, shape, rng, specs).astype(spec.dtype)
    if np.issubdtype(spec.dtype, np.complexfloating):
        raise BadInput(f"input {spec.name!r} takes {spec.dtype}, for which nothing is made up: give --calib data")
    if is_mask(spec):
        return np.ones(shape, spec.dtype)
    # A scalar is a setting (a scale, a threshold), not a signal.
    values = rng.standard_normal(shape, np.float32) if prod(_sizes(spec.shape)) > 1 else np.ones(shape, np.float32)
    return (spec.centre + spec.spread * values).astype(spec.dtype)


def _image(spec: InputSpec, shape: tuple[int, ...], leaves: Leaves, rng: np.random.Generator) -> Array:
    last = infer_layout(spec.shape) == "nhwc"
    channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
    if min(height, width) < _MIN_SIDE:
        return rng.standard_normal(shape, np.float32)
    picture = dead_leaves(leaves, rng, (channels, height, width))
    return np.moveaxis(picture, 0, -1) if last else picture


def _sizes(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in shape)
