"""What a group's removal does to the outputs: the end-to-end probe that prices groups for the allocator.

Methods.md §10: layer errors cannot be compared across layers, so each group is pruned alone, its readers refitted
from the statistics of sweep 1, and the rest of the network run on a few inputs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.least_squares import refit
from onnxprune.calibration.statistics import F64
from onnxprune.criteria.curve import CURVE_RIDGE
from onnxprune.criteria.problem import Index, Reader
from onnxprune.dependency import Analysis
from onnxprune.graph import Array, array_of, values_by_name
from onnxprune.layers import Layer
from onnxprune.runtime import open_session, run, subgraph
from onnxprune.scoring import Judge, Scored
from onnxprune.weights import from_matrix, to_matrix

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Tail:
    """The graph behind a group's readers, their weights and biases its inputs beside the activations it reads."""

    model: ir.Model
    reads: tuple[str, ...]
    weights: tuple[str, ...]


def probe(
    analysis: Analysis,
    layers: Sequence[Layer],
    scored: Sequence[Scored],
    widths: Sequence[Sequence[int]],
    feeds: Mapping[str, Array],
    tick: Tick = lambda: None,
) -> list[list[float]]:
    """The outputs' squared error over their variance, for each group at each of its widths."""
    by_name = {layer.name: layer for layer in layers}
    judged = judged_values(analysis.model)
    tails = [_tail(analysis.model, [by_name[j.reader.name] for j in s.judges if j.reader.name in by_name]) for s in scored]
    known = _run_original(analysis.model, {name for tail in tails for name in tail.reads} | set(judged), feeds)
    found = []
    for one, tail, asked in zip(scored, tails, widths, strict=True):
        found.append(_group_costs(one, tail, asked, by_name, judged, known))
        tick()
    return found


def judged_values(model: ir.Model) -> list[str]:
    """The outputs to judge by; for a softmax its input, which shows differences that saturation hides."""
    names = []
    for value in model.graph.outputs:
        node = value.producer()
        squashed = node is not None and node.op_type in ("Softmax", "LogSoftmax") and node.inputs[0] is not None
        source = node.inputs[0] if squashed and node is not None else value
        names.append((source or value).name or "")
    return list(dict.fromkeys(names))


def _run_original(model: ir.Model, names: Collection[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    computed = sorted(set(names) - set(feeds))
    return {**feeds, **run(open_session(model, outputs=computed), feeds)}


def _tail(model: ir.Model, readers: Sequence[Layer]) -> Tail:
    """Cut behind the readers. The model is a copy: its constants become inputs here."""
    model = model.clone()
    values = values_by_name(model)
    constants = {v.name or "" for layer in readers for v in (layer.linear.weight, layer.bias) if v is not None}
    behind = _downstream(model, {values[name] for name in constants})
    for name in constants:
        value = values[name]
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        if value not in model.graph.inputs:
            model.graph.inputs.append(value)
        del model.graph.initializers[name]
        value.const_value = None
    made = {value for node in behind for value in node.outputs}
    reads = {v.name or "" for node in behind for v in node.inputs if v is not None and v not in made and v.const_value is None}
    return Tail(model, tuple(sorted(reads - constants - {""})), tuple(sorted(constants)))


def _downstream(model: ir.Model, start: Collection[ir.Value]) -> list[ir.Node]:
    changed, nodes = set(start), []
    for node in model.graph:
        if any(value in changed for value in node.inputs):
            changed.update(node.outputs)
            nodes.append(node)
    return nodes


def _group_costs(
    scored: Scored,
    tail: Tail,
    widths: Sequence[int],
    layers: Mapping[str, Layer],
    judged: Sequence[str],
    known: Mapping[str, Array],
) -> list[float]:
    reached = _reached(tail, judged)
    if not tail.weights or not reached:
        return [0.0 for _ in widths]
    values = values_by_name(tail.model)
    for name in tail.reads:
        values[name].type = ir.TensorType(ir.DataType.from_numpy(known[name].dtype))
    session = open_session(subgraph(tail.model, [*tail.reads, *tail.weights], reached))
    activations = {name: known[name] for name in tail.reads}
    return [
        sum(_error(known[name], y) for name, y in run(session, activations | _weights(scored, layers, width)).items())
        for width in widths
    ]


def _reached(tail: Tail, judged: Sequence[str]) -> list[str]:
    """The judged values that the readers have a say in."""
    values = values_by_name(tail.model)
    made = {v.name for node in _downstream(tail.model, {values[n] for n in tail.weights}) for v in node.outputs}
    return [name for name in judged if name in made]


def _weights(scored: Scored, layers: Mapping[str, Layer], width: int) -> dict[str, Array]:
    """The readers' weights and biases after a refit on the kept units, zeros at the others."""
    kept = scored.selection.keep(width)
    fitted: dict[str, tuple[Layer, F64, F64]] = {}
    for judge in (j for j in scored.judges if j.reader.name in layers):
        layer = layers[judge.reader.name]
        matrix = to_matrix(layer.linear, array_of(layer.linear.weight)).astype(np.float64)
        _, weight, shift = fitted.setdefault(layer.name, (layer, matrix.copy(), np.zeros(matrix.shape[:2])))
        weight[judge.block], shift[judge.block] = _pruned(judge, kept)
    feeds: dict[str, Array] = {}
    for layer, weight, shift in fitted.values():
        original = array_of(layer.linear.weight)
        shaped = from_matrix(layer.linear, weight, original.shape)
        feeds[layer.linear.weight.name or ""] = np.ascontiguousarray(shaped, original.dtype)
        if layer.bias is not None:
            bias = array_of(layer.bias)
            feeds[layer.bias.name or ""] = (bias + shift.reshape(bias.shape)).astype(bias.dtype)
    return feeds


def stays(reader: Reader, kept: Index) -> Index:
    """The features that remain when the group keeps these units."""
    return np.flatnonzero((reader.channel < 0) | np.isin(reader.channel, kept))


def _pruned(judge: Judge, kept: Index) -> tuple[F64, F64]:
    reader, moments = judge.reader, judge.reader.moments
    assert moments is not None
    features = stays(reader, kept)
    small = refit(moments.gram, moments.cross, reader.weight, features, CURVE_RIDGE)
    weight = np.zeros_like(reader.weight)
    weight[:, features] = small
    return weight, (reader.weight - weight) @ moments.mean_x


def _error(expected: Array, found: Array) -> float:
    difference = found.astype(np.float64) - expected.astype(np.float64)
    if expected.ndim == 2 and expected.shape[1] > 1:
        difference -= difference.mean(axis=1, keepdims=True)  # a shift of all scores changes no decision
    return float(np.mean(difference**2)) / max(float(np.var(expected.astype(np.float64))), 1e-30)
