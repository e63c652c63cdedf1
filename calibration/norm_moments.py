"""What layers read: mean and variance per channel, computed inside onnxruntime; the statistics BatchNorms keep."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, add_constant
from onnxprune.runtime import open_session, run

if TYPE_CHECKING:
    import onnxruntime as ort

# From here on a Reshape reads its shape from an input, and a BatchNormalization keeps one statistic a channel.
_OPSET = 7
_PARTS = ("mean", "square", "size")


@dataclass(frozen=True, eq=False)
class Norm:
    """A BatchNormalization of constant statistics: the value it normalises, running `mean` and `variance` (C,)."""

    value: str
    mean: Array
    variance: Array
    epsilon: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance (C,) of each value, in the order asked for; `elements` of all of them in one sample."""

    each: list[tuple[Array, Array]]
    elements: int


def norms_behind(model: ir.Model, inputs: Sequence[str]) -> list[Norm]:
    """List the BatchNormalizations in test mode that depend on one of the named graph inputs."""
    if model.graph.opset_imports.get("", _OPSET) < _OPSET:
        return []
    reached = {id(value) for value in model.graph.inputs if value.name in inputs}
    found: list[Norm] = []
    for node in model.graph:
        if any(id(value) in reached for value in node.inputs):
            reached |= {id(value) for value in node.outputs}
            found += _norm(node)
    return found


def open_moments(model: ir.Model, values: Sequence[str]) -> "ort.InferenceSession":
    """Open a session that computes, of each named value (N, C, …), what `moments` reads; no layer after the last.

    Raises BadInput where onnxruntime cannot load the model.
    """
    probed = model.clone()
    known = ir.convenience.create_value_mapping(probed.graph, include_subgraphs=False)
    # Pooled as (N, C, -1): of all ways to average over the positions this is the one that every opset spells alike.
    planes = add_constant(probed.graph, "onnxprune_planes", np.array((0, 0, -1)))
    names: list[str] = []
    for at, value in enumerate(values):
        outputs = [f"onnxprune_{part}_{at}" for part in _PARTS]
        probed.graph.extend(_probe(known[value], planes, outputs))
        names += outputs
    return open_session(probed, outputs=names)


def moments(session: "ort.InferenceSession", batches: Iterable[Mapping[str, Array]]) -> Moments:
    """Run all batches and pool the moments over samples and positions.

    Raises BadInput where onnxruntime cannot run the model.
    """
    count = len(session.get_outputs()) // len(_PARTS)
    sums: list[tuple[Array, Array]] = [(np.zeros(()), np.zeros(()))] * count
    rows, elements = 0, 0
    for feeds in batches:
        out = run(session, feeds)
        found = [[out[f"onnxprune_{part}_{at}"] for part in _PARTS] for at in range(count)]
        sums = [(a + _total(mean), b + _total(square)) for (a, b), (mean, square, _) in zip(sums, found, strict=True)]
        rows += len(found[0][0])
        elements += sum(int(size) for _, _, size in found)
    return Moments([(a / rows, np.maximum(b / rows - (a / rows) ** 2, 0)) for a, b in sums], elements // rows)


def _total(planes: Array) -> Array:
    total: Array = planes.sum((0, 2), dtype=np.float64)
    return total


def _norm(node: ir.Node) -> Iterator[Norm]:
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return
    training = node.attributes.get("training_mode")
    constants = [ir.convenience.get_const_tensor(value) for value in node.inputs[3:5] if value is not None]
    if len(node.outputs) > 1 or (training is not None and training.as_int()) or node.inputs[0] is None:
        return
    epsilon = node.attributes.get("epsilon")
    mean, variance = (None if one is None else one.numpy().astype(np.float64) for one in constants)
    if mean is not None and variance is not None and mean.ndim == variance.ndim == 1:
        yield Norm(node.inputs[0].name or "", mean, variance, 1e-5 if epsilon is None else epsilon.as_float())


def _probe(value: ir.Value, planes: ir.Value, outputs: Sequence[str]) -> list[ir.Node]:
    mean, square, size = outputs
    # Squares of half-precision activations may pass 65504.
    cast = _node("Cast", [value], f"{mean}_cast", to=ir.DataType.FLOAT)
    flat = _node("Reshape", [cast.outputs[0], planes], f"{mean}_flat")
    squared = _node("Mul", [flat.outputs[0], flat.outputs[0]], f"{square}_flat")
    heads = [("GlobalAveragePool", flat, mean), ("GlobalAveragePool", squared, square), ("Size", flat, size)]
    return [cast, flat, squared, *(_node(op, [node.outputs[0]], name) for op, node, name in heads)]


def _node(op_type: str, inputs: Sequence[ir.Value], output: str, **attributes: int) -> ir.Node:
    return ir.node(op_type, inputs, attributes, outputs=[ir.Value(name=output)], name=output)
