"""The independent oracle: a dense graph with a 0/1 mask on chosen values, run on onnxruntime; no onnxprune code."""

from collections.abc import Iterator, Mapping, MutableSequence, Sequence

import numpy as np
import onnx
import onnxruntime


def masked_model(model: onnx.ModelProto, masks: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Copy of `model` in which every named value is multiplied by its mask right after it is produced.

    Masks have the broadcast shape of their value, e.g. (1, C, 1, 1). Graph inputs, initializers and graph outputs
    may be named too, and values in bodies; an output keeps its name. Raises KeyError for a name that is nowhere.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graphs = list(_graphs(result.graph))
    for name, mask in masks.items():
        holders = [graph for graph in graphs if any(name in node.output for node in graph.node)]
        _insert_mask((*holders, result.graph)[0], name, mask)
    return result


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from _graphs(attribute.g)


def _insert_mask(graph: onnx.GraphProto, name: str, mask: np.ndarray) -> None:
    producer = next((index for index, node in enumerate(graph.node) if name in node.output), None)
    sources = {value.name for value in (*graph.input, *graph.initializer)}
    if producer is None and name not in sources:
        raise KeyError(f"the graph holds no value named {name!r}")
    raw, masked = (name, f"{name}.masked") if producer is None else (f"{name}.unmasked", name)
    if producer is None:
        for node in graph.node:
            _rename(node.input, name, masked)
    else:
        _rename(graph.node[producer].output, name, raw)
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(mask, _dtype(graph, name)), f"{name}.mask"))
    node = onnx.helper.make_node("Mul", [raw, f"{name}.mask"], [masked])
    graph.node.insert(0 if producer is None else producer + 1, node)


def _dtype(graph: onnx.GraphProto, name: str) -> np.dtype:
    """Element type of a value where the graph states it, else float32: the models of the tests compute in it."""
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(known.get(name, onnx.TensorProto.FLOAT)))


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    names[:] = [new if name == old else name for name in names]


def run(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Values of `outputs` by name (default: the graph outputs); inner values may be named, they are exposed."""
    names = [value.name for value in model.graph.output] if outputs is None else list(outputs)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def max_relative_difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """Largest max|a - b| / max|b| over the values of both; infinite where names, shapes or finiteness differ."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max((_relative(a[name], b[name]) for name in a), default=0.0)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    if not a.size:
        return 0.0
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return float(np.abs(wide_a - wide_b).max() / max(float(np.abs(wide_b).max()), np.finfo(np.float32).tiny))
