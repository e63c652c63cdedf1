"""Models in and out: five kinds of source, one in-memory form (onnx-ir), checked before anything runs them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast

import onnx
import onnx_ir as ir

from onnxprune.atomic import Staged, staged, write_bytes
from onnxprune.errors import BadInput
from onnxprune.model_check import parse, require_external_data, require_valid, with_dense_tensors
from onnxprune.serialise import (
    PROTOBUF_END,
    in_memory,
    replace_tensors,
    root_message,
    skeleton,
    tensor_bytes,
    tensors,
    to_bytes,
    to_proto,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ModelSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, onnx.ModelProto, ir.Model, "gs.Graph"]
Kind: TypeAlias = Literal["path", "bytes", "proto", "ir", "graphsurgeon"]

PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of tensors above which a model is written with external data; protobuf itself ends at 2 GiB."""


_INLINE_BYTES = 1024  # smaller tensors stay in the model file, so that shapes can be read without the data
_ALIGNMENT = 64
_EXTERNAL = "onnxprune.external"
"""The key, in a graph's `meta`, of a model that came with external data: it stays in memory and is not written."""


@dataclass(frozen=True)
class Loaded:
    """A model, the kind of source it came from, and its path where it has one."""

    model: ir.Model
    kind: Kind
    path: Path | None


@dataclass(frozen=True)
class SavedFiles:
    """What `save` wrote: the model file, its external data file or None, and the bytes of both together."""

    model: Path
    data: Path | None
    bytes: int


def load(source: ModelSource) -> Loaded:
    """Read and check a model; the source is never changed, and external data stays on disk, memory-mapped.

    Sparse initializers become dense (onnx-ir has no sparse ones). An `ir.Model` is cloned; tensors are shared.

    Raises:
        BadInput: not a model, a checker failure, or external data that is missing, too short or outside the folder.
    """
    if isinstance(source, ir.Model):
        return Loaded(_checked_clone(source), "ir", None)
    if isinstance(source, onnx.ModelProto):
        return Loaded(_from_proto(source, source), "proto", None)
    if isinstance(source, bytes):
        proto = parse(source, "the given bytes")
        return Loaded(_from_proto(proto, source), "bytes", None)
    if isinstance(source, (str, os.PathLike)):
        return _load_path(Path(source))
    if type(source).__module__.partition(".")[0] == "onnx_graphsurgeon":
        proto = _from_graphsurgeon(source)
        return Loaded(_from_proto(proto, proto), "graphsurgeon", None)
    raise BadInput(
        f"cannot read a model from {type(source).__name__}: give a path, bytes, onnx.ModelProto, "
        "onnx_ir.Model or onnx_graphsurgeon.Graph"
    )


def like(model: ir.Model, loaded: Loaded) -> "ir.Model | bytes | onnx.ModelProto | gs.Graph":
    """Return `model` as the kind that was loaded; for a path, as `ir.Model`.

    Raises:
        BadInput: the kind is bytes and the model is larger than protobuf allows.
    """
    if loaded.kind == "bytes":
        return to_bytes(model)
    if loaded.kind == "proto":
        return to_proto(model)
    if loaded.kind == "graphsurgeon":
        import onnx_graphsurgeon as gs

        return gs.import_onnx(to_proto(model))
    return model


def save(model: ir.Model, path: str | os.PathLike[str], before: Callable[[], None] | None = None) -> SavedFiles:
    """Write a model so that `path` holds, at every moment, either what it held before or all of the new model.

    External data is used where the model came with it or is too large for protobuf. Its file is named by its own
    content (`<stem>-<sha256>.data`) and is in place before the model that points to it. Older data files are left
    alone: a process that still reads the previous model may need them. `before` runs when all bytes are on disk, just
    before the model gets its name.

    Raises:
        BadInput: the path is not writable or the disk is full; nothing was changed, no temporary file is left.
    """
    target = Path(path)
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model))
    if external or _EXTERNAL in model.graph.meta or tensor_bytes(model) > PROTOBUF_LIMIT:
        return _save_with_data(model, target, before)
    data = to_bytes(model)
    write_bytes(target, data, before)
    return SavedFiles(target, None, len(data))


def _load_path(path: Path) -> Loaded:
    if not path.exists():
        raise BadInput(f"{path}: there is no such file")
    if not path.is_file():
        raise BadInput(f"{path}: not a file")
    if path.stat().st_size > PROTOBUF_END:
        raise BadInput(f"{path}: {path.stat().st_size} bytes are more than a protobuf can hold (2 GiB), so not a model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    # Absolute, so that the data is still found after the process changes its folder.
    folder = path.absolute().parent
    proto = parse(data, str(path))
    require_external_data(proto, folder, str(path))
    require_valid(str(path), str(path))
    model = _to_ir(proto, str(path))
    for tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder
            model.graph.meta[_EXTERNAL] = True
    return Loaded(model, "path", path)


def _from_proto(proto: onnx.ModelProto, checked: onnx.ModelProto | bytes) -> ir.Model:
    where = "the given model"
    require_external_data(proto, None, where)
    require_valid(checked, where)
    return _to_ir(proto, where)


def _to_ir(proto: onnx.ModelProto, where: str) -> ir.Model:
    try:
        return ir.from_proto(with_dense_tensors(proto))
    except (ValueError, TypeError, RuntimeError, NotImplementedError, ir.serde.SerdeError) as error:
        raise BadInput(f"{where}: cannot be read as a graph: {root_message(error)}") from error


def _from_graphsurgeon(graph: "gs.Graph") -> onnx.ModelProto:
    import onnx_graphsurgeon as gs

    try:
        proto: onnx.ModelProto = gs.export_onnx(graph)
    except Exception as error:  # graphsurgeon raises its own, unexported, exception type
        raise BadInput(f"the onnx_graphsurgeon.Graph cannot be exported: {error}") from error
    return proto


def _checked_clone(model: ir.Model) -> ir.Model:
    try:
        bones = ir.to_proto(skeleton(model))
        clone = model.clone()
    except Exception as error:  # an unsorted or half-built graph fails in many ways
        raise BadInput(f"the given onnx_ir.Model cannot be serialised: {root_message(error)}") from error
    require_valid(bones, "the given onnx_ir.Model")
    for tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor) and not Path(tensor.path).is_file():
            raise BadInput(f"external data of tensor {tensor.name!r} is missing: there is no file {tensor.path}")
    return clone


def _save_with_data(model: ir.Model, target: Path, before: Callable[[], None] | None) -> SavedFiles:
    clone = model.clone()
    with staged(target.with_name(f"{target.stem}.data")) as stage:
        moved = _write_tensors(clone, stage)
        data = target.with_name(f"{target.stem}-{stage.sha256.hexdigest()[:16]}.data")
        known = data.exists()
        stage.publish(data)
    for value, offset in moved:
        value.const_value = _pointer(value, data, offset)
    proto = ir.to_proto(clone).SerializeToString()
    try:
        write_bytes(target, proto, before)
    except BadInput:
        # A data file of the same content may belong to the model that is still there.
        if not known:
            data.unlink(missing_ok=True)
        raise
    return SavedFiles(target, data, len(proto) + stage.size)


def _write_tensors(model: ir.Model, stage: Staged) -> list[tuple[ir.Value, int]]:
    """Append the larger initializers to `stage`, the rest into memory; return each with its offset."""
    moved = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _INLINE_BYTES:
                continue
            stage.write(bytes(-stage.size % _ALIGNMENT))
            moved.append((value, stage.size))
            cast(Any, tensor).tofile(stage)  # every onnx-ir tensor has it, its protocol does not
    kept = {id(value.const_value) for value, _ in moved}
    replace_tensors(model, lambda tensor: tensor if id(tensor) in kept else in_memory(tensor))
    return moved


def _pointer(value: ir.Value, data: Path, offset: int) -> ir.ExternalTensor:
    tensor = value.const_value
    assert tensor is not None and value.name is not None
    return ir.ExternalTensor(
        data.name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=data.absolute().parent,
    )
