"""The tensors of an onnx-ir model, wherever they sit, and its serialised form."""

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.heap import give_back

PROTOBUF_END = (1 << 31) - 1
"""Bytes that a protobuf message can have."""
LARGE = 256_000_000
"""Bytes of tensors from which on a model is run piece by piece where that will do, and no copy is made of it whole."""
BIG = 16_000_000
"""Bytes from which on a constant is cut only when it is read."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
_LARGE = 1024
"""Bytes from which on a tensor is not worth a copy."""


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialise with all tensors inside, external ones too; `model` is not changed."""
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model)):
        model = model.clone()
        replace_tensors(model, in_memory)
    return ir.to_proto(model)


def to_bytes(model: ir.Model) -> bytes:
    """Serialise with all tensors inside.

    Raises:
        BadInput: the model is larger than protobuf allows.
    """
    try:
        return bytes(to_proto(model).SerializeToString())
    except Exception as error:  # ValueError or protobuf's EncodeError, according to protobuf's backend
        size = tensor_bytes(model)
        raise BadInput(
            f"{size} bytes of tensors do not fit into one protobuf (2 GiB): write to a path instead"
        ) from error


def large_initializers(model: ir.Model) -> list[ir.Value]:
    """The main graph's large float initializers that nodes read, less those that are graph inputs as well.

    The runtime drops the others while it loads a model, and then misses them.
    """
    inputs = set(model.graph.inputs)
    return [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype in _FLOATS
        and value.const_value.nbytes >= _LARGE
        and value not in inputs
        and (value.uses() or value.is_graph_output())
    ]


def lighten(model: ir.Model) -> dict[str, np.ndarray]:
    """Take the large float initializers out of `model`, uncopied, and leave references to nothing in their place.

    No other tensor stays external.
    """
    replace_tensors(model, in_memory)
    taken = {}
    for value in large_initializers(model):
        name, tensor = value.name or "", value.const_value
        assert tensor is not None
        taken[name] = np.ascontiguousarray(tensor.numpy())
        shape = ir.Shape(taken[name].shape)
        value.const_value = ir.ExternalTensor("nowhere", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
    return taken


def skeleton(model: ir.Model) -> ir.Model:
    """Clone with the larger initializers turned into inputs: the checker takes at most 2 GiB."""
    clone = model.clone()
    for name, value in list(clone.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _LARGE:
            del clone.graph.initializers[name]
            if value not in clone.graph.inputs:
                clone.graph.inputs.append(value)
    replace_tensors(clone, in_memory)
    return clone


def release(tensor: ir.TensorProtocol | None) -> None:
    """Give back the memory that a tensor mapped from a file takes; it is read again when it is asked for."""
    raw = tensor.raw if isinstance(tensor, ir.ExternalTensor) else None
    if isinstance(raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        raw.madvise(mmap.MADV_DONTNEED)


def release_all(model: ir.Model) -> None:
    """Give back the memory that the mapped tensors of a model take; for a large one, all that was freed as well."""
    for tensor in tensors(model):
        release(tensor)
    if tensor_bytes(model) > LARGE:
        give_back()


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of the model: initializers and attributes, subgraphs and functions included."""
    return sum(tensor.nbytes for tensor in tensors(model))


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of the model: initializers and attributes, subgraphs and functions included."""
    for graph in _graphs(model):
        yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
    for node in _nodes(model):
        for attribute in node.attributes.values():
            yield from _attribute_tensors(attribute)


def replace_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Put `change(tensor)` in the place of every tensor of `model`, which is changed."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = change(value.const_value)
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, change(attribute.as_tensor()))
            elif attribute.type == ir.AttributeType.TENSORS:
                node.attributes[name] = ir.AttrTensors(name, [change(tensor) for tensor in attribute.as_tensors()])


def in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return an external tensor as one that serialises its bytes (still memory-mapped), any other as it is."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)


def renamed(tensor: ir.ExternalTensor, name: str) -> ir.ExternalTensor:
    """The same bytes of the same file under another name."""
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        base_dir=tensor.base_dir,
    )


def root_message(error: BaseException) -> str:
    """Return the innermost cause of a chain of exceptions (onnx-ir wraps one per level) on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield from model.graphs()
    for function in model.functions.values():
        yield from function.subgraphs()


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _attribute_tensors(attribute: ir.Attr) -> Iterator[ir.TensorProtocol]:
    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.TENSOR:
        yield attribute.as_tensor()
    elif attribute.type == ir.AttributeType.TENSORS:
        yield from attribute.as_tensors()
