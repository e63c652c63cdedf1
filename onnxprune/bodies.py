"""Bodies of control flow as models of their own, on the inputs of their first pass: both branches can be seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.graph import bodies, captured_values, every_node
from onnxprune.pieces import compute

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, Array]


class Pass(NamedTuple):
    """A body as a model, and what it is given; `name` tells node and attribute."""

    name: str
    model: ir.Model
    feeds: Feeds


def _once(node: ir.Node, given: Sequence[Array | None]) -> list[Array | None]:
    return []


def _first_of_loop(node: ir.Node, given: Sequence[Array | None]) -> list[Array | None]:
    return [np.array(0, np.int64), np.array(True), *given[2:]]


def _first_of_scan(node: ir.Node, given: Sequence[Array | None]) -> list[Array | None]:
    """The states, and the first slice of each scanned input, or the last where it is read backwards."""
    count = node.attributes.get_int("num_scan_inputs", len(given))
    states = len(given) - count
    axes = node.attributes.get_ints("scan_input_axes") or [0] * count
    backwards = node.attributes.get_ints("scan_input_directions") or [0] * count
    slices = [
        None if array is None or not array.shape[axis] else np.asarray(np.take(array, -1 if back else 0, axis))
        for array, axis, back in zip(given[states:], axes, backwards, strict=True)
    ]
    return [*given[:states], *slices]


FIRST_PASS: Mapping[str, Callable[[ir.Node, Sequence[Array | None]], list[Array | None]]] = {
    "If": _once,
    "Loop": _first_of_loop,
    "Scan": _first_of_scan,
}
"""What a body is given the first time, from what its node is given."""


def first_passes(model: ir.Model, feeds: Feeds) -> Iterator[Pass]:
    """Every body that can be run by itself, outer ones first.

    What a body reads from outside is an input of its model, with the value that it has in this run. Where a body does
    not run, those in it are left out.
    """
    holders = [node for node in model.graph if bodies(node) and node.op_type in FIRST_PASS]
    found = _values(model, feeds, [v for node in holders for v in _read_by(node)]) if holders else {}
    for node in holders:
        given = [None if v is None else found.get(v.name or "") for v in node.inputs]
        for key, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH:
                made = _as_model(model, attribute.as_graph(), FIRST_PASS[node.op_type](node, given), found)
                if made is not None:
                    yield Pass(f"{node.name}.{key}", *made)
                    yield from first_passes(*made)


def _read_by(node: ir.Node) -> list[ir.Value]:
    """What a node and its bodies read, from the graph that the node is in."""
    return [v for v in (*node.inputs, *captured_values(node)) if v is not None and v.graph is node.graph]


def _values(model: ir.Model, feeds: Feeds, wanted: Sequence[ir.Value]) -> dict[str, Array]:
    """Values of one run, constants included; none where they cannot be had."""
    found = {v.name or "": v.const_value.numpy() for v in wanted if v.is_initializer() and v.const_value is not None}
    computed = sorted({v.name or "" for v in wanted} - {*found, *feeds})
    try:
        run_values = compute(model, feeds, computed) if computed else {}
    except BadInput:
        return {**found, **feeds}
    return {**found, **feeds, **{name: array for name, array in run_values.items() if isinstance(array, np.ndarray)}}


def _as_model(
    model: ir.Model, body: ir.Graph, given: Sequence[Array | None], known: Mapping[str, Array]
) -> tuple[ir.Model, Feeds] | None:
    """A body as a model, with feeds; None where an input is not known."""
    if len(given) != len(body.inputs):
        return None
    outer = _captured(body)
    constant = [v for v in outer if v.is_initializer()]
    inputs = [*body.inputs, *(v for v in outer if not v.is_initializer())]
    arrays = [*given, *(known.get(v.name or "") for v in inputs[len(body.inputs) :])]
    feeds = {v.name or "": array for v, array in zip(inputs, arrays, strict=True) if array is not None}
    if len(feeds) < len(inputs):
        return None
    view = ir.GraphView(
        inputs,
        body.outputs,
        nodes=list(body),
        initializers=[*body.initializers.values(), *constant],
        opset_imports=model.opset_imports,
        name=body.name,
    )
    graph = view.clone()
    for value in graph.inputs:
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(feeds[value.name or ""].dtype)), None
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(graph, ir_version=max(model.ir_version, 4), functions=functions), feeds


def _captured(body: ir.Graph) -> list[ir.Value]:
    """What a body and those in it read from outside of it."""
    inside = {body, *body.subgraphs()}
    reads = [v for node in body.all_nodes() for v in node.inputs if v is not None]
    return list(dict.fromkeys(v for v in (*reads, *body.outputs) if v.graph not in inside))


def changing(model: ir.Model) -> set[str]:
    """The names of values in loops that may be others in the next pass, sizes of tensors excepted."""
    found: set[ir.Value] = set()
    for node in every_node(model):
        reads = () if node.op_type in ("Shape", "Size") else (*node.inputs, *captured_values(node))
        if any(value in found for value in reads):
            found.update(node.outputs)
        found.update(value for body in bodies(node) for value in body.inputs)
    return {value.name or "" for value in found}
