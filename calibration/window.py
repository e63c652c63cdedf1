"""A part of a source: some of its samples, in order, as a source again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnxprune.calibration.source import Source
from onnxprune.graph import Array


@dataclass(frozen=True)
class Window:
    """Samples `start` … `stop`−1 of a source. `axes` names the batch axis of each input, None where it has none.

    With `most` no batch holds more samples than that.
    """

    source: Source
    axes: Mapping[str, int | None]
    start: int
    stop: int
    most: int | None = None

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return self.stop - self.start

    @property
    def synthetic(self) -> bool:
        """Whether no real data was seen."""
        return self.source.synthetic

    @property
    def description(self) -> str:
        """What the report says of the data."""
        return self.source.description

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the feeds that lie in the window, batches at its ends cut, and large ones into several."""
        seen = 0
        for feeds in self.source.batches():
            size = batch_of(feeds, self.axes)
            first, last = max(self.start - seen, 0), min(self.stop - seen, size)
            seen += size
            step = self.most or size
            for begin in range(first, last, step):
                yield cut(feeds, self.axes, begin, min(begin + step, last))
            if seen >= self.stop:
                return


def batch_of(feeds: Mapping[str, Array], axes: Mapping[str, int | None]) -> int:
    """How many samples a batch holds."""
    return next((feeds[name].shape[axis] for name, axis in axes.items() if axis is not None and name in feeds), 1)


def cut(feeds: Mapping[str, Array], axes: Mapping[str, int | None], first: int, last: int) -> dict[str, Array]:
    """Samples `first` … `last`−1 of a batch; inputs without a batch axis go whole."""

    def part(name: str, array: Array) -> Array:
        axis = axes.get(name)
        return array if axis is None else array[(slice(None),) * axis + (slice(first, last),)]

    return {name: part(name, array) for name, array in feeds.items()}


def leading(source: Source, axes: Mapping[str, int | None], samples: int, whole: bool) -> Iterator[Mapping[str, Array]]:
    """Feeds with the first so many samples, or with as few more as fill a batch where batches stay `whole`."""
    for feeds in source.batches():
        size = batch_of(feeds, axes)
        yield feeds if whole else cut(feeds, axes, 0, min(size, samples))
        samples -= size
        if samples <= 0:
            return
