"""Arrays that live in files: memory-mapped in place, or written once to an unnamed temporary file."""

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune.calibration.bind import quoted
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 20
_ROOM = "free some space or point TMPDIR at another disk"
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name (APPNOTE 4.3.7)


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the array, in Python integers: a forged shape must not overflow."""
        return prod(self.shape) * self.dtype.itemsize


def map_npy(path: Path) -> Array:
    """Memory-map a `.npy` file. Raises BadInput where it is damaged, holds Python objects or cannot be read."""
    try:
        with path.open("rb") as file:
            header = _read_header(file, str(path))
            stored = path.stat().st_size - header.offset
            _check_size(header, stored, str(path))
            return _map(file, header, header.offset)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


class Archive:
    """The members of an `.npz` file, each opened only when asked for."""

    def __init__(self, path: Path) -> None:
        """Read the directory of the archive. Raises BadInput where it is damaged or cannot be read."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise BadInput(f"{path} is not a readable .npz file (truncated or damaged?): {error}") from error
        self._members = {info.filename.removesuffix(".npy"): info for info in infos}

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._members)

    def array(self, name: str) -> Array:
        """Map a stored member in place; decompress any other once, to a temporary file.

        Raises BadInput for a damaged member, one of Python objects, or a disk without room.
        """
        what = f"array {name!r} in {self.path}"
        if name not in self._members:
            raise BadInput(f"{self.path} has no array {name!r}; it holds {quoted(self.names)}")
        try:
            return self._open(self._members[name], what)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"{what} cannot be read (truncated or damaged?): {error}") from error

    def _open(self, info: zipfile.ZipInfo, what: str) -> Array:
        with zipfile.ZipFile(self.path) as archive, archive.open(info) as member:
            header = _read_header(member, what)
            _check_size(header, info.file_size - header.offset, what)
            if info.compress_type != zipfile.ZIP_STORED:
                return _spooled(iter(lambda: member.read(_CHUNK), b""), header, what)
        with self.path.open("rb") as file:
            file.seek(info.header_offset + _LOCAL_HEADER - 4)
            name_size, extra_size = (int.from_bytes(file.read(2), "little") for _ in range(2))
            start = info.header_offset + _LOCAL_HEADER + name_size + extra_size
            return _map(file, header, start + header.offset)


class Spool:
    """A growing array of rows in a temporary file; the file vanishes with the last array mapped from it."""

    def __init__(self, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        """Open an empty spool for rows of one dtype and shape."""
        self.dtype, self.row_shape, self.rows = dtype, row_shape, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the spool

    def append(self, rows: Array) -> None:
        """Write rows (n, *row_shape) behind those already there. Raises BadInput where the disk is full."""
        _write(self._file, [np.ascontiguousarray(rows).tobytes()], "the calibration stream")
        self.rows += len(rows)

    def array(self) -> Array:
        """Map all rows, read-only."""
        self._file.flush()
        shape = (self.rows, *self.row_shape)
        return _map(self._file, _Header(shape, False, self.dtype, 0), 0)


def open_arrays(path: Path) -> "Archive | Mapping[str, Array]":
    """Open an `.npz` as an archive, or a `.npy` as the one array `x`."""
    return Archive(path) if path.suffix == ".npz" else {"x": map_npy(path)}


def _read_header(file: IO[bytes], what: str) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except KeyError as error:
        raise BadInput(f"{what} holds a structured array: save one plain array for each input") from error
    except (ValueError, EOFError) as error:
        raise BadInput(f"{what} is not a whole .npy array (truncated or damaged?): {error}") from error
    if dtype.hasobject:
        raise BadInput(f"{what} holds Python objects (a pickle), which is never loaded: save it as a numeric array")
    if any(size < 0 for size in shape):
        raise BadInput(f"{what} is damaged: its header announces the shape {shape}")
    return _Header(shape, fortran, dtype, file.tell())


def _check_size(header: _Header, stored: int, what: str) -> None:
    if stored < header.size:
        raise BadInput(f"{what} is truncated: {stored} bytes of data where its header announces {header.size}")


def _map(file: IO[bytes], header: _Header, offset: int) -> Array:
    order = "F" if header.fortran else "C"
    if header.size == 0:
        return np.zeros(header.shape, header.dtype)
    if not header.shape:
        file.seek(offset)
        return np.frombuffer(file.read(header.size), header.dtype).reshape(())
    mapped = np.memmap(file, header.dtype, mode="r", offset=offset, shape=header.shape, order=order)  # type: ignore[call-overload]
    return np.asarray(mapped)


def _spooled(chunks: Iterable[bytes], header: _Header, what: str) -> Array:
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if header.size > room:
        raise BadInput(f"{what} unpacks to {header.size} bytes, {tempfile.gettempdir()} has {room}: {_ROOM}")
    with tempfile.TemporaryFile() as file:
        _write(file, chunks, what)
        return _map(file, header, 0)


def _write(file: IO[bytes], chunks: Iterable[bytes], what: str) -> None:
    for chunk in chunks:
        try:
            file.write(chunk)
            file.flush()
        except OSError as error:
            place = tempfile.gettempdir()
            raise BadInput(f"{what} cannot be kept in {place}: {error.strerror}; {_ROOM}") from error
