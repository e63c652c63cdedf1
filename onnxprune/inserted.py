"""Nodes that let more channels go: samplers before layers whose input cannot lose any, products around states."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, analyse
from onnxprune.graph import SAMPLER, STATE, every_node
from onnxprune.labels import WHOLE
from onnxprune.layers import solvable
from onnxprune.passes.samplers import add_samplers, sharing
from onnxprune.passes.states import add_state_products
from onnxprune.trace import Trace

FEWEST_SAMPLED, WORTH_SAMPLING = 16, 512
"""A layer whose input cannot go samples it, if it has so many channels, and if each of them goes into so many products:
to copy one costs about as much as a dozen."""


def with_states(analysis: Analysis, frozen: frozenset[str], opened: Collection[str]) -> tuple[Analysis, frozenset[str]]:
    """The analysis with products around the states of recurrent layers, where that opens any; and their names."""
    closed = {
        linear.node.name or ""
        for linear in analysis.linears
        if linear.kind == "recurrent" and len(linear.node.inputs) > 5 and bool(np.all(linear.outputs == WHOLE))
    } - frozen
    if not closed:
        return analysis, frozenset()
    readers = {linear.node.name or "" for linear in analysis.linears}
    model = add_state_products(analysis.model, closed, readers)
    products = [node for node in every_node(model) if STATE in node.meta]
    shapes = dict(analysis.trace.shapes)
    for ends in ([node.inputs[0], node.outputs[0]] for node in products):  # one of the two is new, and both are alike
        names = [value.name or "" for value in ends if value is not None]
        shapes |= dict.fromkeys(names, next(shapes[name] for name in names if name in shapes))
    wider = analyse(model, replace(analysis.trace, shapes=shapes), opened)
    if len(wider.groups) == len(analysis.groups):
        return analysis, frozenset()
    return wider, frozenset(node.name or "" for node in products)


def sampled_layers(analysis: Analysis, frozen: frozenset[str], wanted: bool | None) -> dict[str, tuple[int, int]]:
    """The layers that get a channel sampler: (the axis of their input channels, how many they are)."""
    mine = [x for x in solvable(analysis) if x.node.graph is analysis.model.graph and x.node.name not in frozen]
    plain = [x for x in mine if x.groups == 1 and x.x.producer() is not None]
    if wanted:
        return sharing(analysis.model, {x.node.name or "" for x in plain})
    if wanted is not None:
        return {}
    found = {}
    for linear in plain:
        axis = 1 if linear.kind == "conv" else -1
        width = analysis.trace.shape(linear.x)[axis]
        worth = linear.outputs.shape[1] * linear.features.shape[1] // max(width, 1)
        closed = bool(np.all(linear.features == WHOLE))
        if linear.kind in ("conv", "gemm", "matmul") and closed and width >= FEWEST_SAMPLED and worth >= WORTH_SAMPLING:
            found[linear.node.name or ""] = (axis, width)
    return found


def with_samplers(analysis: Analysis, layers: Mapping[str, tuple[int, int]]) -> tuple[ir.Model, Trace]:
    """The model with samplers, and its trace: a sampler that takes every channel changes no shape."""
    model = add_samplers(analysis.model, layers)
    added = {
        node.outputs[0].name or "": analysis.trace.shape(node.inputs[0])
        for node in model.graph
        if SAMPLER in node.meta and node.inputs[0] is not None
    }
    return model, replace(analysis.trace, shapes={**analysis.trace.shapes, **added})
