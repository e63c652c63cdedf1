"""Arrays written one behind the other to an unnamed file, and read back in turn: memory does not grow with them."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from threading import Lock

import numpy as np

from onnxprune.errors import BadInput
from onnxprune.graph import Array


class Tape:
    """A list of arrays on disk; the file goes with the object. Threads may read and write at the same time."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the tape
        self._index: dict[int, tuple[int, tuple[int, ...], np.dtype]] = {}
        self._moving = Lock()
        self.bytes = 0

    def append(self, array: Array) -> None:
        """Write one more array behind the last."""
        self.put(len(self), array)

    def put(self, number: int, array: Array) -> None:
        """Write array `number`; they may come in any order. Raises BadInput where the disk is full."""
        array = np.asarray(array, order="C")  # the other way a scalar would get an axis
        with self._moving:
            start, self.bytes = self.bytes, self.bytes + array.nbytes
            self._index[number] = start, array.shape, array.dtype
        left = array.reshape(-1).view(np.uint8)
        try:
            while left.size:  # one call writes 2 GB at most
                done = os.pwrite(self._file.fileno(), left.data, start)
                left, start = left[done:], start + done
        except OSError as error:
            raise BadInput(f"no room for activations in {tempfile.gettempdir()}: {error}; set TMPDIR") from error

    def cut(self, length: int) -> "Tape":
        """Forget all but the first `length` arrays; what lies behind them is written over."""
        self._index = {i: place for i, place in self._index.items() if i < length}
        ends = (start + int(np.prod(shape)) * dtype.itemsize for start, shape, dtype in self._index.values())
        self.bytes = max(ends, default=0)
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
