"""Arrays written one behind the other to an unnamed file, and read back in turn: memory does not grow with them."""

import mmap
import tempfile
from collections.abc import Iterator

import numpy as np

from onnxprune.errors import BadInput
from onnxprune.graph import Array


class Tape:
    """A list of arrays on disk; the file goes with the object. Threads may read at the same time."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the tape
        self._index: list[tuple[int, tuple[int, ...], np.dtype]] = []
        self.bytes = 0

    def append(self, array: Array) -> None:
        """Write one more array. Raises BadInput where the disk is full."""
        array = np.ascontiguousarray(array)
        self._index.append((self.bytes, array.shape, array.dtype))
        try:
            self._file.seek(self.bytes)
            self._file.write(array.data if array.size else b"")
            self._file.flush()
        except OSError as error:
            raise BadInput(f"no room for activations in {tempfile.gettempdir()}: {error}; set TMPDIR") from error
        self.bytes += array.nbytes

    def cut(self, length: int) -> "Tape":
        """Forget all but the first `length` arrays; their room is written on again."""
        self._index = self._index[:length]
        self.bytes = sum(int(np.prod(shape)) * dtype.itemsize for _, shape, dtype in self._index)
        return self

    def __getitem__(self, i: int) -> Array:
        """Array number `i`, read-only: a view of the file, to be let go before the tape is cut and written on."""
        start, shape, dtype = self._index[i]
        size = int(np.prod(shape)) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        before = start % mmap.ALLOCATIONGRANULARITY
        try:
            view = mmap.mmap(self._file.fileno(), before + size, access=mmap.ACCESS_READ, offset=start - before)
        except ValueError as error:
            raise BadInput(f"a temporary file in {tempfile.gettempdir()} was cut short; set TMPDIR") from error
        except OSError as error:
            raise BadInput(f"a temporary file in {tempfile.gettempdir()} cannot be read: {error}") from error
        return np.frombuffer(view, dtype, size // dtype.itemsize, before).reshape(shape)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))
