"""A source whose batches are made once and then read from temporary files: to make up a picture costs more."""

from collections.abc import Iterator
from threading import Lock

from onnxprune.calibration.source import Source
from onnxprune.calibration.tape import Tape
from onnxprune.graph import Array


class Recorded:
    """The batches of another source, each kept when it is first asked for; the same as if that were asked again.

    Several threads may go over them at the same time.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._coming = source.batches()
        self._tapes: dict[str, Tape] = {}
        self._have = 0
        self._recording = Lock()

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return self._source.samples

    @property
    def synthetic(self) -> bool:
        """Whether no real data was seen."""
        return self._source.synthetic

    @property
    def description(self) -> str:
        """What the report says of the data."""
        return self._source.description

    @property
    def disk_bytes(self) -> int:
        """Bytes of temporary files in use."""
        return sum(tape.bytes for tape in self._tapes.values())

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the feeds. Raises BadInput where the disk is full."""
        number = 0
        while number < self._have or self._record(number):
            yield {name: tape[number] for name, tape in self._tapes.items()}
            number += 1

    def _record(self, number: int) -> bool:
        """Make batch `number`, unless another thread just has; False where there is none."""
        with self._recording:
            if number < self._have:
                return True
            feeds = next(self._coming, None)
            for name, array in (feeds or {}).items():
                self._tapes.setdefault(name, Tape()).append(array)
            self._have += feeds is not None
            return feeds is not None
