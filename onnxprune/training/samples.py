"""The inputs that a network is trained on: each once on disk, with its label where there is one, read by number."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.arrays import ArraySource
from onnxprune.calibration.batchnorm_match import match
from onnxprune.calibration.inputs import InputSpec, batch_axes, fixed_batch, input_specs
from onnxprune.calibration.source import ImageOptions, Source, Trial, open_calibration
from onnxprune.calibration.spool import Archive, Spool
from onnxprune.calibration.window import batch_of
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.named import is_named, load_function

EVERY = 1 << 40
"""More samples than anything holds."""
MADE_UP = 512
LABELS = "y"


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs by name with their batch axis first (those without one as they are), and labels in the same order.

    `batch` is the size of batch that the model insists on.
    """

    arrays: Mapping[str, Array]
    axes: Mapping[str, int | None]
    specs: tuple[InputSpec, ...]
    labels: Array | None
    count: int
    batch: int | None
    description: str

    def feeds(self, rows: Array) -> dict[str, Array]:
        """The feeds of a batch of these samples."""
        found = {}
        for name, array in self.arrays.items():
            axis = self.axes[name]
            found[name] = np.array(array if axis is None else np.moveaxis(array[rows], 0, axis), order="C")
        return found


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples, in batches, as a source."""

    whole: Samples
    rows: Array
    batch_size: int
    synthetic: bool = False

    @property
    def samples(self) -> int:
        """How many they are."""
        return len(self.rows)

    @property
    def description(self) -> str:
        """What the report says of the data."""
        return self.whole.description

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the feeds."""
        size = self.whole.batch or self.batch_size
        for start in range(0, len(self.rows), size):
            yield self.whole.feeds(self.rows[start : start + size])


def open_samples(given: object, model: ir.Model, config: Config, apart: Source | None = None) -> Samples:
    """Open training data: all that `open_calibration` takes, or module:function that returns an iterable of batches.

    Labels are the array `y` of an `.npz`, a mapping or a feed, or the second of a pair. A stream is read once, to its
    end. What is in `apart`, to judge with, is left out.
    Raises BadInput where data and model do not fit.
    """
    specs = input_specs(model)
    held, taken = _labelled(given, LABELS not in {spec.name for spec in specs})
    image = ImageOptions(config.image_size, config.mean, config.std, config.layout, config.channel_order)
    synthetic = given is None or (isinstance(given, str) and given == "synthetic")
    opened = open_calibration(
        held,
        specs,
        config.input_shape,
        samples=config.train_samples or (MADE_UP if synthetic else EVERY),
        batch_size=config.batch_size,
        seed=config.seed,
        image=image,
        trial=Trial(model),
    )
    source = match(model, opened.source)
    labels = taken()
    if labels is not None:
        labels = labels[source.rows] if isinstance(source, ArraySource) else labels
    return spooled(source, opened.specs, labels, apart)


def spooled(
    source: Source, specs: Iterable[InputSpec], labels: Array | None = None, apart: Source | None = None
) -> Samples:
    """The samples of a source, written to temporary files once, less those that `apart` holds too."""
    specs = tuple(specs)
    axes, size = batch_axes(specs), fixed_batch(specs)
    known = {digest for feeds in apart.batches() for digest in _digests(feeds, axes)} if apart is not None else set()
    spools: dict[str, Spool] = {}
    arrays: dict[str, Array] = {}
    stays: list[bool] = []
    for feeds in source.batches():
        kept = np.array([digest not in known for digest in _digests(feeds, axes)])
        stays += kept.tolist()
        for name, array in feeds.items():
            if (axis := axes[name]) is None:
                arrays[name] = array
            else:
                rows = np.moveaxis(array, axis, 0)[kept]
                spools.setdefault(name, Spool(rows.dtype, rows.shape[1:])).append(rows)
    count = sum(stays)
    count -= count % (size or 1)
    if not count:
        raise BadInput("--train: no input is left, for all are held out to judge with: give more")
    arrays |= {name: spool.array()[:count] for name, spool in spools.items()}
    labels = None if labels is None else labels[np.array(stays)][:count]
    return Samples(arrays, axes, specs, labels, count, size, source.description)


def _digests(feeds: Mapping[str, Array], axes: Mapping[str, int | None]) -> list[bytes]:
    """A fingerprint of each sample of a batch."""
    rows = [np.moveaxis(feeds[name], axis, 0) for name, axis in axes.items() if axis is not None]
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(batch_of(feeds, axes))]
    for array in rows:
        for one, row in zip(hashes, array, strict=True):
            one.update(np.ascontiguousarray(row).view(np.uint8).data if row.ndim else row.tobytes())
    return [one.digest() for one in hashes]


def _labelled(given: object, labels: bool) -> tuple[object, Callable[[], Array | None]]:
    """The data without labels, and what gives these once the data are open; with `labels` false there are none."""
    if isinstance(given, str) and is_named(given) and not Path(given).exists():
        given = load_function(given, "--train")()
    if not labels:
        return given, lambda: None
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        archive = Archive(path) if path.suffix == ".npz" and path.is_file() else None
        return given, lambda: archive.array(LABELS) if archive is not None and LABELS in archive.names else None
    if isinstance(given, Mapping):
        inputs = {name: array for name, array in given.items() if name != LABELS}
        return inputs, lambda: np.asarray(given[LABELS]) if LABELS in given else None
    if given is None or isinstance(given, np.ndarray) or not isinstance(given, Iterable):
        return given, lambda: None
    stream = _Stream(given)
    return stream, stream.labels


class _Stream:
    """Feeds on their way, whose labels are taken off."""

    def __init__(self, feeds: Iterable[Any]) -> None:
        self._feeds, self._labels = feeds, list[Array]()

    def __iter__(self) -> Iterator[object]:
        for feed in self._feeds:
            inputs, label = feed if isinstance(feed, tuple) and len(feed) == 2 else (feed, None)
            if isinstance(inputs, Mapping) and LABELS in inputs:
                label = inputs[LABELS]
                inputs = {name: array for name, array in inputs.items() if name != LABELS}
            if label is not None:
                self._labels.append(np.asarray(label))
            yield inputs

    def labels(self) -> Array | None:
        return np.concatenate(self._labels) if self._labels else None
