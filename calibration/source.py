"""Where calibration data comes from: one function opens every kind of source as a re-iterable stream of batches."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxprune.calibration.arrays import (
    DEFAULT_SAMPLES,
    array_source,
    check_dtype,
    choose_rows,
    count_samples,
    match_names,
    whole_batches,
)
from onnxprune.calibration.bind import Shape, bind_given, bind_known
from onnxprune.calibration.feeds import spool_feeds
from onnxprune.calibration.images import SUFFIXES, ImageOptions, ImageSource, image_shape, list_images
from onnxprune.calibration.inputs import InputSpec, input_specs
from onnxprune.calibration.settle import settle
from onnxprune.calibration.spool import Archive, open_arrays
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.calibration.trial import Trial
from onnxprune.errors import BadInput

__all__ = [
    "Calibration",
    "ImageOptions",
    "InputSpec",
    "Source",
    "Trial",
    "input_specs",
    "load_labelled",
    "open_calibration",
    "open_source",
]

Array = np.ndarray[Any, np.dtype[Any]]


MADE_UP = ("synthetic", "distilled")
"""Names of what is made up; the second is made better by who opens it (`distilled.py`)."""


class Source(Protocol):
    """A re-iterable stream of batches: the same in the same order each time, in memory that does not grow with them."""

    @property
    def samples(self) -> int:
        """The number of samples over all batches."""

    @property
    def synthetic(self) -> bool:
        """Whether no real data was seen."""

    @property
    def description(self) -> str:
        """What the report says of the data."""

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the model by input name. Raises BadInput at data that turn out to be bad."""


@dataclass(frozen=True)
class Calibration:
    """An open source, the model's inputs as it binds them, and a sentence for each thing nobody had chosen."""

    source: Source
    specs: list[InputSpec]
    guesses: list[str]


@dataclass(frozen=True)
class _Draw:
    samples: int | None
    batch_size: int
    seed: int
    image: ImageOptions
    trial: Trial | None


def open_source(
    calib: object, specs: Sequence[InputSpec], *, samples: int | None, batch_size: int, seed: int, image: ImageOptions
) -> Source:
    """Open calibration data for inputs that are bound, or that the data themselves bind; see `open_calibration`."""
    return open_calibration(calib, specs, {}, samples=samples, batch_size=batch_size, seed=seed, image=image).source


def open_calibration(
    calib: object,
    specs: Sequence[InputSpec],
    given: Mapping[str, Shape],
    *,
    samples: int | None,
    batch_size: int,
    seed: int,
    image: ImageOptions,
    trial: Trial | None = None,
) -> Calibration:
    """Open calibration data and bind the dynamic dimensions of the inputs to it.

    `calib` is None or one of `MADE_UP`, the path of an `.npz`, an `.npy` or a folder of images, an array, a mapping of
    arrays by input name, an iterable of feeds, or an onnxruntime CalibrationDataReader. `given` holds the shapes of
    `--input-shape`. `samples` (None: at most 512) are drawn with `seed`. Where `trial` has the model, guesses on which
    it does not run give way to others.
    Raises BadInput for whatever cannot be read or does not fit the model; values are checked as they stream.
    """
    _check_numbers(specs, samples, batch_size, seed)
    draw = _Draw(samples, batch_size, seed, image, trial)
    if calib is None or (isinstance(calib, str) and calib in MADE_UP):
        return _synthetic(specs, given, draw)
    if isinstance(calib, (str, os.PathLike)):
        path = Path(calib)
        if path.is_dir():
            return _folder(path, specs, given, draw)
        opened = _open_file(path)
        stored = _matched(opened, bind_given(specs, given), image, str(path))
        return _from_arrays(stored, specs, given, draw, path.name, _labels(opened, specs))
    if isinstance(calib, (np.ndarray, Mapping)):
        held = {"x": calib} if isinstance(calib, np.ndarray) else calib
        stored = _matched(held, bind_given(specs, given), image, "--calib")
        return _from_arrays(stored, specs, given, draw, "arrays", _labels(held, specs))
    feeds = spool_feeds(_feeds(calib), bind_given(specs, given), samples, seed, image)
    return _from_arrays(feeds, specs, given, draw, "feeds")


def load_labelled(
    path: str | os.PathLike[str],
    specs: Sequence[InputSpec],
    image: ImageOptions,
    *,
    batch_size: int = 64,
    trial: Trial | None = None,
) -> tuple[Source, Array]:
    """Open labelled data: an `.npz` with `x` (or arrays by the inputs' names) and `y`, integer classes of shape (N,).

    Returns the stream of all samples, in the file's order, and their labels as int64. `specs` may leave sizes open;
    where `trial` has the model, it tells which batches run.
    Raises BadInput where data, labels and model do not fit each other.
    """
    file = Path(path)
    archive = _open_file(file)
    if not isinstance(archive, Archive):
        raise BadInput(f"{file} holds one array: labelled data is an .npz with x and y")
    arrays = _matched(archive, specs, image, str(file))
    known = bind_known(specs, {}, {name: array.shape for name, array in arrays.items()})

    def opened(bound: Sequence[InputSpec], size: int) -> Source:
        return array_source(arrays, bound, None, size, image, file.name)

    bound, _ = settle(known, batch_size, trial, lambda tried, size: next(iter(opened(tried, size).batches())))
    labels = archive.array("y")
    _, total = count_samples(arrays, bound)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        fix = "use y.argmax(axis=1) if it is one-hot" if labels.ndim == 2 else "make it a vector of class numbers"
        raise BadInput(
            f"labels y in {file} are {labels.dtype} of shape {labels.shape}, not integers of shape (N,): {fix}"
        )
    if len(labels) != total:
        raise BadInput(f"{file} holds {total} samples but {len(labels)} labels y")
    source = opened(bound, batch_size)
    return source, labels[: source.samples].astype(np.int64)


def _check_numbers(specs: Sequence[InputSpec], samples: int | None, batch_size: int, seed: int) -> None:
    if not specs:
        raise BadInput("the model has no inputs, so there is nothing to calibrate it on")
    if samples is not None and samples < 1:
        raise BadInput(f"--samples {samples}: at least 1 is needed")
    if batch_size < 1:
        raise BadInput(f"--batch-size {batch_size}: it must be at least 1")
    if seed < 0:
        raise BadInput(f"--seed {seed}: it must not be negative")


def _open_file(path: Path) -> Archive | Mapping[str, Array]:
    if not path.exists():
        raise BadInput(f"{path} does not exist: give an .npz, an .npy or a folder of images")
    if path.suffix in (".npz", ".npy"):
        return open_arrays(path)
    hint = "give the folder that holds the image" if path.suffix.lower() in SUFFIXES else "give one of those"
    raise BadInput(f"{path} is neither an .npz, an .npy nor a folder of images: {hint}")


def _matched(
    held: Archive | Mapping[str, Array], specs: Sequence[InputSpec], image: ImageOptions, what: str
) -> dict[str, Array]:
    names = held.names if isinstance(held, Archive) else list(held)
    keys = match_names(names, specs, what)
    arrays = {
        name: held.array(key) if isinstance(held, Archive) else np.asarray(held[key]) for name, key in keys.items()
    }
    for spec in specs:
        check_dtype(spec, arrays[spec.name].dtype, image, f"array {keys[spec.name]!r} of {what}")
    return arrays


def _from_arrays(
    arrays: Mapping[str, Array],
    specs: Sequence[InputSpec],
    given: Mapping[str, Shape],
    draw: _Draw,
    name: str,
    labels: Array | None = None,
) -> Calibration:
    known = bind_known(specs, given, {key: array.shape for key, array in arrays.items()})
    total = count_samples(arrays, known)[1]
    rows = choose_rows(total, draw.samples, draw.seed)
    own = labels if labels is not None and len(labels) == total else None
    return _settled(
        known, draw, lambda bound, size: replace(array_source(arrays, bound, rows, size, draw.image, name), labels=own)
    )


def _labels(held: Archive | Mapping[str, Array], specs: Sequence[InputSpec]) -> Array | None:
    """The classes `y` that lie beside the inputs; None where there are none, or something else has that name."""
    names = held.names if isinstance(held, Archive) else list(held)
    if "y" not in names or any(spec.name == "y" for spec in specs):
        return None
    found = held.array("y") if isinstance(held, Archive) else np.asarray(held["y"])
    return found.astype(np.int64) if found.ndim == 1 and np.issubdtype(found.dtype, np.integer) else None


def _folder(path: Path, specs: Sequence[InputSpec], given: Mapping[str, Shape], draw: _Draw) -> Calibration:
    files = list_images(path)
    shape = image_shape(bind_given(specs, given), draw.image)
    rows = choose_rows(len(files), draw.samples, draw.seed)

    def source(bound: Sequence[InputSpec], batch_size: int) -> Source:
        kept, size, remark = whole_batches(len(rows), bound, batch_size)
        if not draw.image.normalises and bound[0].dtype != np.uint8:
            remark += "; scaled to 0..1, no --mean or --std given"
        description = f"{path.name}: {kept} of {len(files)} images{remark}"
        return ImageSource(tuple(files[row] for row in rows[:kept]), bound[0], size, draw.image, description)

    return _settled(bind_known(specs, given, shape), draw, source)


def _synthetic(specs: Sequence[InputSpec], given: Mapping[str, Shape], draw: _Draw) -> Calibration:
    def source(bound: Sequence[InputSpec], batch_size: int) -> Source:
        wanted = DEFAULT_SAMPLES if draw.samples is None else draw.samples
        kept, size, remark = whole_batches(wanted, bound, batch_size)
        description = f"synthetic: {kept} made-up samples, seed {draw.seed}, no real data{remark}"
        return SyntheticSource(tuple(bound), kept, size, draw.seed, description)

    return _settled(bind_known(specs, given, {}), draw, source)


def _settled(
    known: Sequence[InputSpec], draw: _Draw, source: Callable[[Sequence[InputSpec], int], Source]
) -> Calibration:
    """Bind what is open, and open the source with it."""
    bound, said = settle(
        known, draw.batch_size, draw.trial, lambda tried, size: next(iter(source(tried, size).batches()))
    )
    return Calibration(source(bound, draw.batch_size), bound, said)


def _feeds(calib: object) -> Iterable[object]:
    get_next = getattr(calib, "get_next", None)
    if callable(get_next):
        return iter(get_next, None)
    if isinstance(calib, Iterable):
        return calib
    raise BadInput(f"calibration data of type {type(calib).__name__}: give a path, arrays, feeds or a data reader")
