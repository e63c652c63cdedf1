"""Arrays that took long to make, kept in the user's cache folder under a key that tells what they were made from."""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxprune.atomic import write_bytes
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.serialise import LARGE, tensor_bytes, to_bytes


def folder() -> Path:
    """`onnxprune` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxprune"


def key_of(model: ir.Model, *settings: object) -> str | None:
    """A hash of the model's bytes and of some settings; None for a model too large to be serialised for that."""
    if tensor_bytes(model) > LARGE:
        return None
    return hashlib.sha256(to_bytes(model) + repr(settings).encode()).hexdigest()[:32]


def read(path: Path) -> dict[str, Array] | None:
    """The arrays of a file; None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError):
        return None


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Keep arrays; a folder that cannot be written to is no error, for they can be made again."""
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError, BadInput):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, packed.getvalue())
