"""What a model must satisfy before anything reads its weights: protobuf, external data, the ONNX checker."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.errors import BadInput

_RUNTIME_OPERATORS = (
    "SimplifiedLayerNormalization",
    "LayerNormalization",
    "Affine",
    "ParametricSoftplus",
    "ScaledTanh",
)
"""What onnxruntime registers in ONNX's domain and ONNX does not (LayerNormalization: before opset 17)."""
_DENSE_LIMIT = 1 << 31  # a few bytes of sparse initializer could otherwise ask for terabytes


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """Parse a serialised ModelProto; `where` names its origin in messages.

    Raises:
        BadInput: the bytes are empty, truncated, or not an ONNX model.
    """
    if not data:
        raise BadInput(f"{where}: the file is empty, not an ONNX model")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError: its package has no type stubs
        raise BadInput(
            f"{where}: not an ONNX model, or a truncated one (the protobuf ends early or is garbled)"
        ) from error
    # Truncation at a field boundary, or text that happens to parse, leaves no graph.
    if not proto.HasField("graph") or (not proto.graph.node and not proto.graph.output):
        raise BadInput(f"{where}: not an ONNX model, or a truncated one (it holds no graph)")
    return proto


def require_valid(model: onnx.ModelProto | bytes | str, where: str) -> None:
    """Run `onnx.checker` on a proto, bytes, or a path (which may lead to more than 2 GB of external data).

    Operators that onnxruntime alone knows in ONNX's own domain (its optimiser writes them) are left to onnxruntime.

    Raises:
        BadInput: the checker found the model invalid.
    """
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker also raises ValueError, RuntimeError and DecodeError
        if (known := _without_runtime_operators(model)) is not None:
            return require_valid(known, where)
        reason = " ".join(str(error).split())
        raise BadInput(f"{where}: onnx.checker refuses the model: {reason}") from error


def _without_runtime_operators(model: onnx.ModelProto | bytes | str) -> onnx.ModelProto | None:
    """A copy in which the runtime's own operators stand in its own domain, which the checker skips; None: it has none.

    External weights become inputs there: a proto without a path has no folder to look for them in.
    """
    copy = onnx.ModelProto()
    if isinstance(model, onnx.ModelProto):
        copy.CopyFrom(model)
    else:
        copy.ParseFromString(Path(model).read_bytes() if isinstance(model, str) else model)
    ours = [node for node in _nodes(copy) if node.op_type in _RUNTIME_OPERATORS and node.domain in ("", "ai.onnx")]
    for node in ours:
        node.domain = "com.microsoft"
    if ours and all(imported.domain != "com.microsoft" for imported in copy.opset_import):
        copy.opset_import.add(domain="com.microsoft", version=1)
    listed = {value.name for value in copy.graph.input}
    for tensor in [t for t in copy.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]:
        if tensor.name not in listed:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            copy.graph.input.append(onnx.helper.make_value_info(tensor.name, kind))
        copy.graph.initializer.remove(tensor)
    return copy if ours else None


def require_external_data(proto: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Check that every external tensor's bytes are in a plain file inside `folder` (None: external data is refused).

    Raises:
        BadInput: the data is missing, too short, or outside the folder (absolute, `..`, a link that leads out).
    """
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _require_tensor_data(tensor, folder, where)


def _require_tensor_data(tensor: onnx.TensorProto, folder: Path | None, where: str) -> None:
    entry = {item.key: item.value for item in tensor.external_data}
    location = entry.get("location", "")
    what = f"{where}: external data of tensor {tensor.name!r} (location {location!r})"
    if folder is None:
        raise BadInput(f"{what} has no folder to be read from: give the model's path instead")
    file = folder / location
    if not location or Path(location).is_absolute() or not _inside(file, folder):
        raise BadInput(f"{what} is outside the model's folder: put it beside the model")
    if not file.is_file():
        raise BadInput(f"{what} is missing: there is no file {file}")
    if file.stat().st_nlink > 1:
        raise BadInput(f"{what} has several hard links and may be a file from outside the folder: copy it")
    _require_length(tensor, entry, file.stat().st_size, what)


def _require_length(tensor: onnx.TensorProto, entry: dict[str, str], size: int, what: str) -> None:
    try:
        offset = int(entry.get("offset", 0))
        length = int(entry.get("length", 0)) or _tensor_bytes(tensor)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{what} has an offset, length or type that is not valid: {error}") from error
    needed = max(length, _tensor_bytes(tensor))
    if offset < 0 or length < 0 or offset + needed > size:
        raise BadInput(f"{what} is too short: {needed} bytes at offset {offset} of a file of {size} bytes")
    if length != _tensor_bytes(tensor):
        raise BadInput(f"{what} has {length} bytes where shape {list(tensor.dims)} needs {_tensor_bytes(tensor)}")


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    elements = int(np.prod(tensor.dims, dtype=object)) if tensor.dims else 1
    return -(-elements * ir.DataType(tensor.data_type).bitwidth // 8)


def _inside(file: Path, folder: Path) -> bool:
    plain = Path(os.path.normpath(file.absolute())).is_relative_to(os.path.normpath(folder.absolute()))
    return plain and file.resolve().is_relative_to(folder.resolve())


def with_dense_tensors(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose sparse initializers and constants are dense; onnx-ir drops or refuses sparse ones.

    Raises:
        BadInput: a dense tensor would take more than 2 GiB.
    """
    if not any(graph.sparse_initializer for graph in _graphs(proto)) and not any(_sparse_constants(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph in _graphs(copy):
        graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for attribute in _sparse_constants(copy):
        tensor = _dense(attribute.sparse_tensor)
        attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
    return copy


def _sparse_constants(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for node in _nodes(proto):
        if node.op_type == "Constant":
            yield from (attribute for attribute in node.attribute if attribute.name == "sparse_value")


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    elements = int(np.prod(sparse.dims, dtype=object))
    if elements * values.itemsize > _DENSE_LIMIT:
        raise BadInput(f"sparse initializer {sparse.values.name!r} of shape {list(sparse.dims)} is too large to unpack")
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
    dense = np.zeros(elements, values.dtype)
    dense[indices] = values
    return onnx.numpy_helper.from_array(dense.reshape(tuple(sparse.dims)), sparse.values.name)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting.extend(attribute.g.node)
            waiting.extend(inner for graph in attribute.graphs for inner in graph.node)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
