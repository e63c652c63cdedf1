"""What a job depends on, as hashes: the model's and the data's content, the options that matter, the version."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from inspect import getsourcefile
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.images import list_images
from onnxprune.calibration.source import MADE_UP
from onnxprune.config import TUNING, Config, panel
from onnxprune.errors import BadInput
from onnxprune.named import is_named, load_function
from onnxprune.serialise import skeleton, tensors
from onnxprune.version import __version__
from onnxprune.widths import runtime_block

UNSEEN = frozenset(name for name, of in Config.model_fields.items() if panel(of) == "Measuring")
TUNED = frozenset(name for name, of in Config.model_fields.items() if panel(of) == TUNING)


class _Sink:
    """A file that only hashes what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return len(data)


def of_model(model: ir.Model) -> str:
    """The hash of a graph and of all its numbers, wherever they are stored."""
    sink = _Sink()
    sink.write(ir.to_proto(skeleton(model)).SerializeToString(deterministic=True))
    for tensor in tensors(model):
        sink.write(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        if tensor.dtype != ir.DataType.STRING:  # those stand in the skeleton
            cast(Any, tensor).tofile(sink)  # every onnx-ir tensor has it, its protocol does not
    return sink.sha256.hexdigest()


def of_training(train: object) -> str:
    """The hash of training data, or of the function that makes them."""
    if isinstance(train, str) and is_named(train):
        return of_function(train, "--train")
    return of_data(train)


def held(data: object) -> object:
    """Data that can be read more than once: a list in the place of a stream of feeds or of a data reader."""
    get_next = getattr(data, "get_next", None)
    if callable(get_next):
        return list(iter(get_next, None))
    whole = data is None or isinstance(data, str | os.PathLike | np.ndarray | Mapping | list | tuple)
    return data if whole or not isinstance(data, Iterable) else list(data)


def of_data(data: object) -> str:
    """The hash of calibration or labelled data of any kind; of an iterable, it must be one that can be read again.

    Raises BadInput where a file cannot be read.
    """
    if data is None or (isinstance(data, str) and data in MADE_UP):
        return str(data)
    sink = _Sink()
    _put(sink, data)
    return sink.sha256.hexdigest()


def of_function(name: str | None, option: str) -> str:
    """The hash of a `module:function` and of the file that holds it; raises BadInput where it cannot be imported."""
    if name is None:
        return ""
    source = getsourcefile(load_function(name, option))
    return f"{name} {of_data(Path(source)) if source and Path(source).is_file() else ''}"


def key_of(config: Config, inputs: Mapping[str, str]) -> str:
    """The address of a job: `inputs` are the hashes of what it reads."""
    ignored = UNSEEN | (TUNED if config.finetune is None else frozenset())
    align = runtime_block() if config.align == "auto" else config.align  # a matter of the processor
    said = {"onnxprune": __version__, "block": align, "inputs": dict(inputs)}
    said["options"] = {name: value for name, value in config.model_dump(mode="json").items() if name not in ignored}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _put(sink: _Sink, data: object) -> None:
    if isinstance(data, str | os.PathLike):
        _put_path(sink, Path(data))
    elif isinstance(data, Mapping):
        for name in sorted(data, key=str):
            sink.write(f"{name}:".encode())
            _put(sink, data[name])
    elif isinstance(data, list | tuple):
        sink.write(f"[{len(data)}]".encode())
        for one in data:
            _put(sink, one)
    else:
        array = np.ascontiguousarray(cast(Any, data))
        sink.write(f"{array.dtype} {array.shape}".encode())
        sink.write(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())


def _put_path(sink: _Sink, path: Path) -> None:
    files = list_images(path) if path.is_dir() else [path]
    for file in files:
        sink.write(f"{file.name if path.is_dir() else file.suffix}:".encode())
        try:
            with file.open("rb") as opened:
                sink.write(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}") from error
