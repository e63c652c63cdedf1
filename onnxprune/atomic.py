"""Files that appear whole or not at all: write a temporary sibling, fsync it, rename it, fsync the folder."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from onnxprune.errors import BadInput

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EACCES: "no write permission",
    errno.EPERM: "no write permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "part of the path is not a folder",
    errno.EISDIR: "the path is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@dataclass
class Staged:
    """A temporary file that has no name of its own yet; counts and hashes (SHA-256) what is written to it."""

    file: IO[bytes]
    temporary: Path
    size: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Append `data` and return its length in bytes."""
        self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def publish(self, path: Path) -> Path:
        """Give the file its name, replacing what bore it; both the bytes and the name are on disk on return."""
        self.file.flush()
        _keep_mode(self.temporary, path)
        os.fsync(self.file.fileno())
        self.temporary.replace(path)
        _fsync_folder(path.parent)
        return path


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Staged]:
    """Open a temporary file beside `path`; unless the block publishes it, it is removed and nothing has changed.

    A symbolic link at `path` is replaced, not followed: what it points to may be a cache shared with others.

    Raises:
        BadInput: the folder or the file is not writable, or the disk is full.
    """
    with explained(path):
        _require_replaceable(path)
        temporary = path.parent / f".onnxprune-{secrets.token_hex(8)}.tmp"
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(temporary.open("xb"))
            stack.callback(temporary.unlink, missing_ok=True)
            yield Staged(file, temporary)


def write_bytes(path: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Write `data` to `path` atomically; `before` runs when the bytes are on disk, just before they get their name.

    Raises:
        BadInput: the folder or the file is not writable, or the disk is full.
    """
    with staged(path) as stage:
        stage.write(data)
        if before is not None:
            stage.file.flush()
            os.fsync(stage.file.fileno())
            before()
        stage.publish(path)


def require_writable(path: Path) -> None:
    """Find out before a long run whether `path` can be written at its end; leaves nothing behind.

    Raises:
        BadInput: the folder or the file is not writable, or the disk is full.
    """
    with staged(path) as stage:
        stage.write(b"\0")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise BadInput(f"cannot write {path}: {reason}; nothing was changed") from error


def _require_replaceable(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A rename needs no permission on the file it replaces, but whoever made a file read-only meant it.
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _keep_mode(temporary: Path, path: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.chmod(path.stat().st_mode & 0o7777)


def _fsync_folder(folder: Path) -> None:
    # Some network file systems refuse to fsync a folder; the rename itself has succeeded by now.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
