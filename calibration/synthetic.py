"""Inputs made up for a model when no data is given: seeded, shaped and ranged as the graph suggests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from scipy.fft import irfft2, rfft2

from onnxprune.calibration.bind import infer_layout
from onnxprune.calibration.inputs import InputSpec, batch_axes
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
Planes = tuple[int, int, int]

# Below this side there is no spatial structure to imitate.
_MIN_SIDE = 8
_SHARED = 0.8  # the part of a field that all colour channels share: those of photographs correlate
_BLOBS = 6
_OTHER_IDS = 4


@dataclass(frozen=True)
class SyntheticSource:
    """Seeded batches; sample i depends on (seed, i) alone, whatever the batch size, and is the same in every pass."""

    specs: tuple[InputSpec, ...]
    samples: int
    batch_size: int
    seed: int
    description: str
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
            return _sample(spec, _sizes(spec.shape), np.random.default_rng((self.seed, 0, at)))
        shape = _sizes(spec.shape[:axis] + spec.shape[axis + 1 :])
        made = [_sample(spec, shape, np.random.default_rng((self.seed, row, at))) for row in rows]
        return np.ascontiguousarray(np.stack(made, axis))


def white(rng: np.random.Generator, shape: Planes) -> Array:
    """White Gaussian noise (channels, height, width)."""
    return rng.standard_normal(shape, np.float32)


def pink(rng: np.random.Generator, shape: Planes) -> Array:
    """Noise with the 1/f amplitude spectrum of photographs, its channels correlated (Field 1987)."""
    _, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).astype(np.float32)
    frequency[0, 0] = np.inf
    noise: Array = irfft2(rfft2(_correlated(rng, shape)) / frequency, s=(height, width))
    return noise


def blobs(rng: np.random.Generator, shape: Planes) -> Array:
    """A smooth gradient, soft blobs and one straight edge, each with a colour of its own."""
    channels, height, width = shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    slope, angle, offset = rng.standard_normal(2, np.float32), rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    edge = np.sign(x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) - np.float32(offset))
    fields = [slope[0] * x + slope[1] * y, edge]
    for _ in range(_BLOBS):
        row, column, radius = rng.uniform((-1, -1, 0.1), (1, 1, 0.6)).astype(np.float32)
        fields.append(np.exp(-(((y - row) / radius) ** 2) / 2) * np.exp(-(((x - column) / radius) ** 2) / 2))
    signs = rng.choice(np.array((-2, 2), np.float32), len(fields))
    colours = _correlated(rng, (channels, len(fields), 1))[..., 0] + signs
    return np.tensordot(colours, np.stack(fields), 1)


# The mixture: each sample is drawn by one of these, with these shares.
GENERATORS: dict[Callable[[np.random.Generator, Planes], Array], float] = {white: 0.4, pink: 0.4, blobs: 0.2}


def _sample(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Values for one sample (its shape without the batch axis), in the dtype and range the input suggests."""
    if _is_image(spec):
        field = _image(spec, shape, rng)
        if spec.dtype == np.uint8:
            return np.clip(np.rint(127.5 + 64 * field), 0, 255).astype(np.uint8)
        return (spec.centre + spec.spread * field).astype(spec.dtype)
    if spec.dtype == np.bool_ or np.issubdtype(spec.dtype, np.integer):
        return _discrete(spec, shape, rng).astype(spec.dtype)
    if np.issubdtype(spec.dtype, np.complexfloating):
        raise BadInput(f"input {spec.name!r} takes {spec.dtype}, for which nothing is made up: give --calib data")
    # A scalar is a setting (a scale, a threshold), not a signal.
    values = rng.standard_normal(shape, np.float32) if prod(_sizes(spec.shape)) > 1 else np.ones(shape, np.float32)
    return (spec.centre + spec.spread * values).astype(spec.dtype)


def _is_image(spec: InputSpec) -> bool:
    pixels = spec.dtype == np.uint8 or not (np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_)
    return spec.rank == 4 and pixels


def _image(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    last = infer_layout(spec.shape) == "nhwc"
    channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
    if min(height, width) < _MIN_SIDE:
        return rng.standard_normal(shape, np.float32)
    shares = np.array(list(GENERATORS.values()))
    generator = list(GENERATORS)[rng.choice(len(shares), p=shares / shares.sum())]
    field = generator(rng, (channels, height, width))
    field -= field.mean((1, 2), keepdims=True)
    field /= np.maximum(field.std((1, 2), keepdims=True), np.float32(1e-6))
    return np.moveaxis(field, 0, -1) if last else field


def _discrete(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    name = spec.name.lower()
    if "mask" in name:
        return np.ones(shape, np.int64)
    if "token_type" in name or "segment" in name:
        return np.zeros(shape, np.int64)
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    if spec.dtype == np.bool_:
        return rng.integers(0, 2, shape) if shape else np.zeros(shape, np.int64)
    if spec.vocabulary is not None:
        return rng.integers(0, spec.vocabulary, shape)
    return rng.integers(0, 256, shape) if spec.dtype == np.uint8 else rng.integers(1, _OTHER_IDS, shape)


def _correlated(rng: np.random.Generator, shape: Planes) -> Array:
    own, shared = rng.standard_normal(shape, np.float32), rng.standard_normal((1, *shape[1:]), np.float32)
    mixed: Array = np.float32(_SHARED**0.5) * shared + np.float32((1 - _SHARED) ** 0.5) * own
    return mixed


def _sizes(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in shape)
