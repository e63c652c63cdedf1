"""A stream of feeds, read once and kept on disk so that it can be read again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np

from onnxprune.calibration.arrays import DEFAULT_SAMPLES, check_dtype, choose_rows, match_names
from onnxprune.calibration.bind import check_shape, shape_text
from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec, batch_axes
from onnxprune.calibration.spool import Spool
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]


def spool_feeds(
    feeds: Iterable[object], specs: Sequence[InputSpec], samples: int | None, seed: int, image: ImageOptions
) -> dict[str, Array]:
    """Read feeds until `samples` (None: 512) are there, and return them as arrays in temporary files, by input name.

    A sequence is drawn from at random, a bare stream is read from its start and no further than needed. A feed is a
    dict by input name, or an array for a model with one input; its batch may have any size.
    Raises BadInput naming the first feed that does not fit the model or the feeds before it.
    """
    limit, axes = DEFAULT_SAMPLES if samples is None else samples, batch_axes(specs)
    kept = _Kept(specs, axes)
    for index, feed in _drawn(feeds, specs, limit, seed):
        arrays = _named(feed, specs, f"feed {index}")
        for spec in specs:
            what = f"feed {index} for {spec.name!r}"
            check_dtype(spec, arrays[spec.name].dtype, image, what)
            check_shape(spec, arrays[spec.name].shape, axes[spec.name], what)
        kept.add(arrays, index, limit)
        if kept.count >= limit:
            break
    if not kept.count:
        raise BadInput("the calibration stream yields no feeds: an iterator that was already used up?")
    return kept.arrays()


class _Kept:
    """What was read so far: a spool for each batched input, one value for any other."""

    def __init__(self, specs: Sequence[InputSpec], axes: Mapping[str, int | None]) -> None:
        self._specs, self._axes, self.count = specs, axes, 0
        self._spools: dict[str, Spool] = {}
        self._constants: dict[str, Array] = {}

    def add(self, arrays: Mapping[str, Array], index: int, limit: int) -> None:
        sizes = {name: arrays[name].shape[axis] for name, axis in self._axes.items() if axis is not None}
        if len(set(sizes.values())) > 1:
            raise BadInput(f"feed {index} has batches of different sizes: {sizes}")
        for name, axis in self._axes.items():
            if axis is None:
                self._hold(name, arrays[name], index)
            else:
                self._append(name, np.moveaxis(arrays[name], axis, 0)[: limit - self.count], index)
        self.count += min(next(iter(sizes.values()), 1), limit - self.count)

    def arrays(self) -> dict[str, Array]:
        """All samples by input name, the batch axis where the model has it."""
        axes = {name: axis for name, axis in self._axes.items() if axis is not None}
        return self._constants | {name: np.moveaxis(self._spools[name].array(), 0, axis) for name, axis in axes.items()}

    def _append(self, name: str, rows: Array, index: int) -> None:
        if name not in self._spools:
            self._spools[name] = Spool(rows.dtype, rows.shape[1:])
        spool = self._spools[name]
        if (spool.dtype, spool.row_shape) != (rows.dtype, rows.shape[1:]):
            before = f"{spool.dtype} {shape_text(spool.row_shape)}"
            now = f"{rows.dtype} {shape_text(rows.shape[1:])}"
            raise BadInput(f"feed {index} for {name!r} holds samples of {now}, earlier ones {before}: make them equal")
        spool.append(rows)

    def _hold(self, name: str, value: Array, index: int) -> None:
        first = self._constants.setdefault(name, value.copy())
        if not np.array_equal(first, value):
            raise BadInput(
                f"feed {index} for {name!r} differs from feed 0: an input without batch axis must not change"
            )


def _drawn(feeds: Iterable[object], specs: Sequence[InputSpec], limit: int, seed: int) -> Iterator[tuple[int, object]]:
    if not isinstance(feeds, Sequence) or not feeds:
        yield from enumerate(feeds)
        return
    first = _named(feeds[0], specs, "feed 0")
    sizes = [
        first[name].shape[axis] for name, axis in batch_axes(specs).items() if axis is not None and first[name].ndim
    ]
    for index in choose_rows(len(feeds), ceil(limit / max(sizes, default=1)), seed):
        yield int(index), feeds[index]


def _named(feed: object, specs: Sequence[InputSpec], what: str) -> dict[str, Array]:
    if isinstance(feed, Mapping):
        return {name: _array(feed[key], what) for name, key in match_names(list(feed), specs, what).items()}
    if len(specs) > 1 or isinstance(feed, (list, tuple, str, bytes)):
        raise BadInput(f"{what} is a {type(feed).__name__}: yield a dict of arrays by input name")
    return {specs[0].name: _array(feed, what)}


def _array(value: object, what: str) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{what} holds what is not an array: {error}") from error
