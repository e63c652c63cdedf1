"""Arrays as calibration data: matched to the model's inputs, checked, drawn and streamed in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.calibration.bind import quoted, shape_text
from onnxprune.calibration.images import ImageOptions, to_input
from onnxprune.calibration.inputs import InputSpec, batch_axes, fixed_batch
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]

DEFAULT_SAMPLES = 512
_LABEL_NAMES = frozenset({"y", "label", "labels", "target", "targets"})


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Batches drawn from arrays by input name; the same in every pass. `axes` tells each input's batch axis.

    `labels` has the class of each row of the arrays, where that is known.
    """

    arrays: Mapping[str, Array]
    specs: tuple[InputSpec, ...]
    axes: Mapping[str, int | None]
    rows: Array
    batch_size: int
    image: ImageOptions
    description: str
    synthetic: bool = False
    labels: Array | None = None

    @property
    def samples(self) -> int:
        """The number of samples over all batches."""
        return len(self.rows)

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield feeds; raises BadInput at the first NaN or infinity, naming the array and the index in it."""
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            yield {spec.name: self._feed(spec, rows) for spec in self.specs}

    def _feed(self, spec: InputSpec, rows: Array) -> Array:
        array, axis = self.arrays[spec.name], self.axes[spec.name]
        # Not np.take: it copies the whole of an array that is unaligned or not C-contiguous, as mapped files are.
        feed = np.array(array if axis is None else array[(slice(None),) * axis + (rows,)], order="C")
        if feed.dtype != spec.dtype:
            return to_input(feed, spec, self.image)
        _check_finite(feed, spec.name, axis, rows)
        return feed


def match_names(names: Sequence[str], specs: Sequence[InputSpec], what: str) -> dict[str, str]:
    """Say which array feeds which input: by name, or the only array (labels aside) or `x` for an only input.

    Raises BadInput listing both sides where an input has no array.
    """
    inputs = [spec.name for spec in specs]
    if set(inputs) <= set(names):
        return {name: name for name in inputs}
    if len(inputs) == 1:
        data = [name for name in names if name not in _LABEL_NAMES] or list(names)
        if "x" in data or len(data) == 1:
            return {inputs[0]: "x" if "x" in data else data[0]}
    missing = quoted([name for name in inputs if name not in names])
    raise BadInput(f"{what} has no array for {missing}: it holds {quoted(names)}, the model takes {quoted(inputs)}")


def check_dtype(spec: InputSpec, dtype: np.dtype, image: ImageOptions, what: str) -> None:
    """Raise BadInput, naming the fix, unless the array has the input's dtype or is uint8 with a mean or std given."""
    if dtype == spec.dtype:
        return
    library = "ml_dtypes" if spec.dtype.kind == "V" else "np"  # numpy itself knows no bfloat16
    fix = f"array.astype({library}.{spec.dtype.name})"
    if dtype.hasobject:
        fix = f"save it as a plain array of {spec.dtype.name}"
    elif dtype == np.uint8 and np.issubdtype(spec.dtype, np.floating):
        if image.normalises:
            return
        fix = f"give --mean and --std for (x / 255 - mean) / std, or normalise it yourself with {fix}"
    raise BadInput(f"{what} is {dtype}, input {spec.name!r} takes {spec.dtype}: {fix}")


def choose_rows(total: int, samples: int | None, seed: int) -> Array:
    """Draw min(total, samples) rows without replacement; `samples` None means 512.

    In the order drawn: data is often sorted by class, and layers that need few inputs take the first.
    """
    count = min(total, DEFAULT_SAMPLES if samples is None else samples)
    return np.random.default_rng(seed).choice(total, count, replace=False)


def whole_batches(count: int, specs: Sequence[InputSpec], batch_size: int) -> tuple[int, int, str]:
    """Return how many samples run, in batches of which size, and a remark on those that are dropped.

    Only a model whose batch axis is fixed drops samples: those that fill no batch.
    Raises BadInput where they do not fill one.
    """
    fixed = fixed_batch(specs)
    if fixed is None:
        return count, batch_size, ""
    kept = count // fixed * fixed
    if not kept:
        raise BadInput(f"the model's batch is fixed at {fixed}, {count} samples fill none: give {fixed} or more")
    remark = f"; {count - kept} samples dropped, the model's batch is fixed at {fixed}" if kept < count else ""
    return kept, fixed, remark


def array_source(
    arrays: Mapping[str, Array],
    specs: Sequence[InputSpec],
    rows: Array | None,
    batch_size: int,
    image: ImageOptions,
    name: str,
) -> ArraySource:
    """Stream arrays, already matched and shaped, by input name; `rows` None means all of them.

    Raises BadInput where the arrays disagree on the number of samples or fill no batch.
    """
    axes, total = count_samples(arrays, specs)
    rows = np.arange(total) if rows is None else rows
    kept, size, remark = whole_batches(len(rows), specs, batch_size)
    scaled = any(arrays[spec.name].dtype != spec.dtype for spec in specs)
    if image.normalises:
        remark += "; uint8 scaled by mean and std" if scaled else "; taken as they are, mean and std are for uint8"
    description = f"{name}: {kept} of {total} samples{remark}"
    return ArraySource(arrays, tuple(specs), axes, rows[:kept], size, image, description)


def count_samples(arrays: Mapping[str, Array], specs: Sequence[InputSpec]) -> tuple[dict[str, int | None], int]:
    """Return each input's batch axis and the number of samples, the same in all batched arrays, or raise BadInput.

    An array of just the model's fixed batch beside longer ones holds one value for all samples.
    """
    axes = batch_axes(specs)
    counts = {name: arrays[name].shape[axis] for name, axis in axes.items() if axis is not None}
    total = max(counts.values(), default=1)
    for spec in specs:
        axis = axes[spec.name]
        if axis is not None and counts[spec.name] != total:
            if spec.shape[axis] != counts[spec.name]:
                each = ", ".join(f"{name!r} {shape_text(arrays[name].shape)}" for name in counts)
                raise BadInput(f"the arrays hold different numbers of samples: {each}")
            axes[spec.name] = None
    return axes, total


def _check_finite(feed: Array, name: str, axis: int | None, rows: Array) -> None:
    if np.issubdtype(feed.dtype, np.integer) or feed.dtype == np.bool_:
        return
    finite = np.isfinite(feed)
    if not finite.all():
        index = [int(at) for at in np.argwhere(~finite)[0]]
        value = feed[tuple(index)]
        if axis is not None:
            index[axis] = int(rows[index[axis]])
        place = f"[{', '.join(map(str, index))}]"
        raise BadInput(f"calibration array for input {name!r} holds {value} at {place}: remove or repair that sample")
