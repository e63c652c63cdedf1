"""Integers and masks made up for a model: ids that its tables hold, masks that hide nothing, lengths that fit."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxprune.calibration.inputs import InputSpec, batch_axes

Array = np.ndarray[Any, np.dtype[Any]]

_LENGTH = re.compile(r"len(s|gths?)?(?![a-z])")
_OTHER_IDS = 4
_MASK_RANK = 3


def is_mask(spec: InputSpec) -> bool:
    """Whether an input is called a mask, and is none of pixels."""
    return "mask" in spec.name.lower() and (not np.issubdtype(spec.dtype, np.inexact) or spec.rank <= _MASK_RANK)


def integers(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, specs: Sequence[InputSpec]) -> Array:
    """Values for one sample of an integer or Boolean input of `shape`; `specs` are all inputs of the model."""
    name = spec.name.lower()
    if spec.setting is not None:
        return np.full(shape, spec.setting)
    if is_mask(spec):
        return np.ones(shape, np.int64)
    if "token_type" in name or "segment" in name:
        return np.zeros(shape, np.int64)
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]) % (spec.vocabulary or shape[-1]), shape)
    if spec.dtype == np.bool_:
        return rng.integers(0, 2, shape) if shape else np.zeros(shape, np.int64)
    if spec.vocabulary is not None:
        return rng.integers(0, spec.vocabulary, shape)
    if _LENGTH.search(name) and spec.rank <= 1 and (sizes := _sizes_beside(specs)):
        return np.full(shape, min(sizes))
    if _beside_ids(spec, specs):  # what goes with each token and is looked up nowhere says that it counts
        return np.ones(shape, np.int64)
    return rng.integers(0, 256, shape) if spec.dtype == np.uint8 else rng.integers(1, _OTHER_IDS, shape)


def _sizes_beside(specs: Sequence[InputSpec]) -> list[int]:
    """Sizes of all inputs, batch axes aside: one is the length of the sequence, so the least is no longer than that."""
    axes = batch_axes(specs)
    sizes = (size for other in specs if other.rank > 1 for at, size in enumerate(other.shape) if at != axes[other.name])
    return [size for size in sizes if size is not None and size > 1]


def _beside_ids(spec: InputSpec, specs: Sequence[InputSpec]) -> bool:
    return spec.rank > 1 and any(other.vocabulary is not None and other.shape == spec.shape for other in specs)
