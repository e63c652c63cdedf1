"""Compute values of a model; of a large one, or many values, piece by piece.

So no more than the weights of a few layers are in memory, and no session has more nodes and outputs than it deals with
well: the time that onnxruntime takes grows with the square of their number.

The same nodes run on the same inputs, one session after the other instead of in one, so nothing is estimated.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.graph import Array, array_of, captured_values, values_by_name
from onnxprune.labels import Shape
from onnxprune.runtime import open_own, open_session, part, run, subgraph
from onnxprune.serialise import LARGE, lighten, release, tensor_bytes

if TYPE_CHECKING:
    import onnxruntime as ort

PIECE, MANY = 64_000_000, 1000
"""Bytes of weights of one piece, and its nodes; a node that reads more is a piece of its own."""
_SHAPE = "::shape"
LONG = 4000
"""Nodes from which on no session is opened on all of them."""


Seen = tuple[Mapping[str, Array], Mapping[str, Shape]]
"""Inputs that a model ran on, and the shapes of its results."""


def whole(model: ir.Model) -> bool:
    """Whether one session may hold the model."""
    return tensor_bytes(model) <= LARGE and len(model.graph) <= LONG


def compute(
    model: ir.Model,
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    tensors: Collection[str] | None = None,
    optimise: bool = True,
) -> dict[str, Array]:
    """The values named in `outputs`, by name, in that order; `model` is not changed.

    A piece ends only where everything handed on to the next ones is a plain tensor: one of the feeds or of `tensors`;
    if these are not given, what shape inference does not tell to be anything else.

    Raises BadInput where onnxruntime cannot load or run the model, or a name is unknown.
    """
    if not (large := tensor_bytes(model) > LARGE) and len(outputs) <= MANY and len(model.graph) <= LONG:
        whole_graph = list(outputs) == [value.name for value in model.graph.outputs]
        if whole_graph and feeds.keys() <= {value.name for value in model.graph.inputs}:
            return run(open_session(model, optimise=optimise), feeds)
        return run(open_session(model, inputs=list(feeds), outputs=outputs, optimise=optimise), feeds)
    values = values_by_name(model)
    here = {name: array_of(values[name]) for name in outputs if name in values and _constant(values[name])}
    tensors = values.keys() - shapeless(model) if tensors is None else tensors
    found = _in_pieces(model, feeds, outputs, (), {*tensors, *outputs}, optimise, large)
    return {name: (here | found)[name] for name in outputs}


def shapes(
    model: ir.Model, feeds: Mapping[str, Array], names: Sequence[str], optimise: bool = True
) -> dict[str, Shape]:
    """The shapes of results, which must be tensors, by name; none of them leaves the runtime.

    Where the shape of a Reshape is a constant, an optimised run answers without running it.

    Raises BadInput where onnxruntime cannot load or run the model.
    """
    if not names:
        return {}
    if not (large := tensor_bytes(model) > LARGE) and len(names) <= MANY:
        return shapes_by(shape_session(model, list(feeds), names, optimise), feeds)
    found = _in_pieces(model, feeds, (), names, names, optimise, large)
    return {name: _size(found[_shape_name(name)]) for name in names}


def shape_session(
    model: ir.Model, inputs: Sequence[str], names: Sequence[str], optimise: bool
) -> "ort.InferenceSession":
    """A session for `shapes_by`: the shapes of these results of the whole model, whatever shapes the inputs have.

    Raises BadInput where onnxruntime cannot load the model.
    """
    own = subgraph(model, inputs, names)
    own.graph.outputs.clear()
    return open_own(_asked(own, names), optimise=optimise)


def shapes_by(session: "ort.InferenceSession", feeds: Mapping[str, Array]) -> dict[str, Shape]:
    """The shapes of the results that the session was opened for, by name. Raises BadInput where it does not run."""
    return {name.removesuffix(_SHAPE): _size(found) for name, found in run(session, feeds).items()}


def results(model: ir.Model) -> list[str]:
    """The names of the results of all nodes of the main graph that are tensors."""
    loose = shapeless(model)
    values = (v for node in model.graph for v in node.outputs if v.name not in loose)
    return [v.name for v in values if v.name and not isinstance(v.type, ir.SequenceType | ir.OptionalType)]


def _in_pieces(
    model: ir.Model,
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    asked: Sequence[str],
    tensors: Collection[str],
    optimise: bool,
    large: bool,
) -> dict[str, Array]:
    """The outputs, and the shapes of what is `asked` for."""
    here: dict[str, Array] = {**feeds}
    shapes_found: dict[str, Array] = {}
    for piece in _pieces(model, outputs, asked, {*tensors, *feeds}, large):
        given = {name: here[name] for name in piece.inputs}
        own = _asked(part(model, piece.nodes, given, piece.outputs), piece.asked)
        session = open_own(own, optimise=optimise and large, lent=large)
        # Copies: what the runtime lends keeps the session alive, and all its weights.
        found = {name: np.array(array) for name, array in run(session, given).items()}
        del session
        for value in piece.constants:
            release(value.const_value)
        shapes_found |= {name: found.pop(name) for name in map(_shape_name, piece.asked)}
        here = {name: array for name, array in (here | found).items() if name in piece.later}
    return here | shapes_found


def _asked(own: ir.Model, names: Sequence[str]) -> ir.Model:
    """The model, which is changed, with the shapes of these values among its outputs."""
    values = values_by_name(own) if names else {}
    for name in names:
        node = ir.node("Shape", [values[name]], name=_shape_name(name))
        node.outputs[0].name = _shape_name(name)
        own.graph.append(node)
        own.graph.outputs.append(node.outputs[0])
    return own


def _shape_name(name: str) -> str:
    return f"{name}{_SHAPE}"


def _size(shape: Array) -> Shape:
    return tuple(int(size) for size in shape)


def shapeless(model: ir.Model) -> set[str]:
    """The names of sequences and optionals that need not be declared to be any."""
    if not any("Sequence" in node.op_type or "Optional" in node.op_type for node in model.graph.all_nodes()):
        return set()
    light = model.clone()
    lighten(light)
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(light)).graph
    declared = (*inferred.value_info, *inferred.output)
    return {value.name for value in declared if value.type.WhichOneof("value") in ("sequence_type", "optional_type")}


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some nodes in a row: what they read from before them, what they make for later, and all that is still needed."""

    nodes: Sequence[ir.Node]
    inputs: list[str]
    outputs: list[str]
    asked: list[str]
    later: frozenset[str]
    constants: list[ir.Value]


def _pieces(
    model: ir.Model, outputs: Sequence[str], asked: Sequence[str], tensors: Collection[str], large: bool
) -> Iterable[_Piece]:
    nodes, shaped = _needed(model, {*outputs, *asked}), set(asked)
    reads = [{value for value in _inputs(node) if value.name} for node in nodes]
    last: dict[str, int] = dict.fromkeys(outputs, len(nodes))
    for number, own in enumerate(reads):
        last |= {value.name or "": number for value in own if last.get(value.name or "", -1) < number}
    start = 0
    weights = [{value for value in own if _constant(value)} if large else set() for own in reads]
    for stop in _ends(nodes, weights, last, tensors):
        made = {value.name or "" for node in nodes[start:stop] for value in node.outputs if value.name}
        read = set().union(*reads[start:stop])
        constants = [value for value in read if _constant(value)]
        inputs = {value.name or "" for value in read if not _constant(value)} - made
        later = frozenset(name for name, use in last.items() if use >= stop)
        if made & (later | shaped):
            yield _Piece(
                nodes[start:stop], sorted(inputs), sorted(made & later), sorted(made & shaped), later, constants
            )
        start = stop


def _ends(
    nodes: Sequence[ir.Node], weights: Sequence[set[ir.Value]], last: Mapping[str, int], tensors: Collection[str]
) -> list[int]:
    """Where pieces end: as late as the weights allow, and not while a sequence or the like is on its way."""
    ends, busy, size = [0], -1, 0
    held: set[ir.Value] = set()
    for number, node in enumerate(nodes):
        more = _bytes(weights[number] - held)
        full = number - ends[-1] >= MANY or (more and size + more > PIECE)
        if number and full and busy < number:
            ends.append(number)
            held, size, more = set(), 0, _bytes(weights[number])
        held |= weights[number]
        size += more
        busy = max([busy, *(last.get(v.name or "", -1) for v in node.outputs if v.name not in tensors)])
    return [*ends[1:], len(nodes)]


def _needed(model: ir.Model, wanted: set[str]) -> list[ir.Node]:
    """The nodes that the wanted values are computed from, in order."""
    found = []
    for node in reversed(list(model.graph)):
        if any(value.name in wanted for value in node.outputs):
            wanted.update(value.name or "" for value in _inputs(node))
            found.append(node)
    return found[::-1]


def _inputs(node: ir.Node) -> list[ir.Value]:
    """What a node reads, and what the bodies in it read, their own values left out."""
    inside = (value for value in captured_values(node) if value.graph is node.graph)
    return [value for value in (*node.inputs, *inside) if value is not None]


def _constant(value: ir.Value) -> bool:
    return value.const_value is not None


def _bytes(constants: Iterable[ir.Value]) -> int:
    return sum(value.const_value.nbytes for value in constants if value.const_value is not None)
