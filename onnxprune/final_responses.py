"""The final response layers: what stands before the classifier of each output, and what each of its channels counts."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.responses import responses
from onnxprune.calibration.source import Source
from onnxprune.criteria.inf_fs import inf_fs
from onnxprune.dependency import Analysis, taken
from onnxprune.errors import BadInput
from onnxprune.flow import Flow, Score
from onnxprune.graph import bodies, every_node, nodes_by_name
from onnxprune.labels import Label
from onnxprune.native import F64

WIDEST = 12_000
"""Channels whose correlations fit into a few gigabytes."""


def final_scores(
    analysis: Analysis, flow: Flow, source: Source, values: Mapping[ir.Value, int]
) -> dict[ir.Value, Score]:
    """The Inf-FS scores of these values' channels, times how often each is asked for.

    Raises BadInput where a value has more channels than can be compared with each other.
    """
    labels = {value: max(flow.labels(value), key=_channels) for value in values if flow.labels(value)}
    for value, label in labels.items():
        if (width := _channels(label)) > WIDEST:
            raise BadInput(f"{value.name!r} has {width} channels, nisp compares up to {WIDEST}: choose another --frl")
    rows = responses(analysis.flat, {v.name or "": label for v, label in labels.items()}, source) if labels else {}
    scores = {}
    for value, times in values.items():
        known = {id(label): _ranked(rows[value.name or ""], label) for v, label in labels.items() if v is value}
        whole = sum(float(own.sum()) for own in known.values()) or 1.0
        even = {id(one): np.full(one.atoms.shape, whole / one.atoms.size) for one in flow.labels(value)}
        scores[value] = Score(tuple((even | known).values()), whole).times(times)
    return scores


def _channels(label: Label) -> int:
    return len(np.unique(label.atoms))


def _ranked(rows: F64, label: Label) -> F64:
    """The score of each position of a label: its channel's, shared among the positions of that.

    A channel that never varies tells nothing, whatever its correlations, which are undefined.
    """
    channel = np.unique(label.atoms, return_inverse=True)[1].reshape(-1)
    count = np.bincount(channel)
    means = np.zeros((len(rows), len(count)))
    np.add.at(means.T, channel, rows.T)
    varies = np.ptp(means, axis=0) > 0
    scores = np.zeros(len(count))
    scores[varies] = inf_fs(means[:, varies] / count[varies])
    if not varies.any():
        scores[:] = 1.0
    return np.asarray((scores / count)[channel].reshape(label.atoms.shape))


def named(analysis: Analysis, original: ir.Model, flow: Flow, name: str) -> Counter[ir.Value]:
    """The results of the node called `name`; of one that was folded away, those of the layer that it went into.

    Raises BadInput where there is none, or where what it gives cannot be seen.
    """
    node = nodes_by_name(analysis.model).get(name) or nodes_by_name(original).get(name)
    if node is None:
        raise BadInput(f"--frl {name!r} is no node of the model; `onnxprune inspect` lists the names")
    seen = {value.name for other in analysis.flat.graph for value in other.outputs}
    every = {value.name: value for other in every_node(analysis.model) for value in other.outputs if value.name in seen}
    while node is not None and not any(value.name in every for value in node.outputs):
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    found = [every[value.name] for value in (node.outputs if node is not None else ()) if value.name in every]
    if not any(flow.carries(value) for value in found):
        raise BadInput(f"--frl {name!r} gives nothing that can be collected: name a layer outside branches and loops")
    return Counter(value for value in found if flow.carries(value))


def standing_last(analysis: Analysis, flow: Flow) -> Counter[ir.Value]:
    """What the last layers read, and by how many outputs it is read."""
    return Counter(value for output in analysis.model.graph.outputs for value in _read_last(analysis, flow, output))


def _read_last(analysis: Analysis, flow: Flow, output: ir.Value) -> dict[ir.Value, None]:
    layers: dict[ir.Node, list[ir.Value]] = {}
    for linear in analysis.linears:
        if linear.x is not linear.y:
            layers.setdefault(linear.node, []).append(linear.x)
    found: dict[ir.Value, None] = {}
    pending, seen = [output], {output}
    while pending:
        value = pending.pop()
        node = value.producer()
        if node in layers:
            found |= dict.fromkeys(x for x in layers[node] if x.producer() is not None)
        elif node is not None and bodies(node) and taken(node, analysis.trace) is None:
            found[value] = None
        elif node is not None:
            before = [v for v in _before(analysis, node, value) if flow.carries(v) and v not in seen]
            pending += before
            seen |= set(before)
    return found


def _before(analysis: Analysis, node: ir.Node, value: ir.Value) -> Iterator[ir.Value]:
    body = taken(node, analysis.trace)
    if body is not None:
        yield body.outputs[list(node.outputs).index(value)]
    else:
        yield from (v for v in node.inputs if v is not None)
