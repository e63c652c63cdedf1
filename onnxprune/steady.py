"""Channels that hold one number everywhere, whatever the input: carried forward through the graph, by exact steps only.

Nothing is sampled: a layer's row of zeros leaves its bias; an operator that works position by position is run on the
numbers themselves; what moves or averages equal numbers hands them on to where its rule says they lie.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.constants import computed_constants
from onnxprune.dependency import Analysis
from onnxprune.errors import BadInput
from onnxprune.graph import Array, array_of
from onnxprune.labels import WHOLE, Label, Labels
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.registry import Op
from onnxprune.op_rules.steady import (
    GATHERS,
    KEEPS,
    Mask,
    Steady,
    affine,
    channel_axis,
    channelwise,
    decided,
    normalised,
    pointwise,
    sees_borders,
)
from onnxprune.runtime import open_session, run
from onnxprune.weights import to_matrix, to_vector, weight_of

Found = dict[ir.Value, Steady]


def steady_channels(analysis: Analysis) -> Found:
    """What is certain of the results in the main graph, of those of which anything is."""
    labels = labels_of(analysis)
    layers = {x.y: x for x in analysis.linears if affine(x)}
    computed = computed_constants(analysis.model)
    opset = analysis.model.opset_imports.get("", 1)
    found: Found = {}
    for node in analysis.model.graph:
        if all(value in computed for value in node.outputs) or not all(map(analysis.trace.knows, _named(node))):
            continue
        op = Op(node, opset, labels, analysis.trace, lambda count: np.empty(count, np.int64))
        layer = layers.get(node.outputs[0])
        made = [_layer(analysis, layer, found)] if layer is not None else _made(analysis.model, op, found)
        for value, one in zip(node.outputs, made, strict=False):
            if one is not None and np.any(one.known):
                found[value] = one
    return found


def labels_of(analysis: Analysis) -> Mapping[ir.Value, Labels]:
    """The atoms on each computed value; tied ones still differ."""
    found: dict[ir.Value, Labels] = defaultdict(tuple)
    for slot in analysis.raw:
        if slot.reader is None:
            found[slot.value] = (*found[slot.value], slot.label)
    return found


def channels(found: Mapping[ir.Value, Steady], value: ir.Value, axis: int, width: int) -> tuple[Array, Mask]:
    """(width,) numbers and what is known of them along one axis of a value: only what is alike along the others."""
    one = found.get(value)
    sizes = [] if one is None else [d for a, d in enumerate(one.known.shape) if a != axis % one.known.ndim]
    if one is None or any(size != 1 for size in sizes):
        return np.zeros(width), np.zeros(width, np.bool_)
    numbers, known = (np.broadcast_to(array.reshape(-1), width) for array in (one.numbers, one.known))
    return np.where(known, numbers, 0).astype(np.float64), known


def columns(analysis: Analysis, found: Mapping[ir.Value, Steady], linear: Linear) -> tuple[Array, Mask]:
    """(groups, F) the number that each column of a layer's X holds, and where it is known to hold one."""
    axis, taps = channel_axis(linear), int(np.prod(linear.kernel))
    numbers, known = channels(found, linear.x, axis, analysis.trace.shape(linear.x)[axis])
    shape = linear.groups, -1
    return np.repeat(numbers.reshape(shape), taps, axis=1), np.repeat(known.reshape(shape), taps, axis=1)


def _named(node: ir.Node) -> Iterable[ir.Value]:
    return (value for value in (*node.inputs, *node.outputs) if value is not None and value.name)


def _layer(analysis: Analysis, linear: Linear, found: Found) -> Steady | None:
    """The rows of a layer that read nothing but zeros, or nothing but what is known."""
    bias = linear.bias
    if bias is not None and bias.const_value is None:
        return None
    if bias is not None and array_of(bias).size not in (1, linear.outputs.size):
        return None
    weight = weight_of(analysis.model, linear)
    matrix = to_matrix(linear, weight)
    numbers, known = columns(analysis, found, linear)
    certain = known & ((numbers == 0) | (not sees_borders(linear)))
    rows = ~np.any((matrix != 0) & ~certain[:, None, :], axis=2)
    if not rows.any():
        return None
    total = np.einsum("gnf,gf->gn", matrix, np.where(certain, numbers, 0)).reshape(-1)
    total = total + (0 if bias is None else to_vector(linear, array_of(bias).astype(np.float64)))
    return _along(analysis, linear.y, channel_axis(linear), total.astype(weight.dtype), rows.reshape(-1))


def _along(analysis: Analysis, value: ir.Value, axis: int, numbers: Array, known: Mask) -> Steady:
    dims = [1] * len(analysis.trace.shape(value))
    dims[axis] = -1
    return Steady(numbers.reshape(dims), known.reshape(dims))


def _made(model: ir.Model, op: Op, found: Found) -> Sequence[Steady | None]:
    if op.node.op_type in KEEPS and op.domain == "":
        return _moved(op, found)
    if pointwise(op):
        return [_computed(model, op, found)]
    zeroed = normalised(op)
    return [] if zeroed is None else [_normalised(model, op, zeroed, found)]


def _given(op: Op, found: Mapping[ir.Value, Steady]) -> list[Steady | None]:
    """What is known of each input: all of a constant."""
    given: list[Steady | None] = []
    for index in range(len(op.node.inputs)):
        array = op.array(index)
        if array is not None:
            given.append(Steady(array, np.ones(array.shape, np.bool_)))
        else:
            given.append(found.get(op.input(index)) if op.has(index) else None)
    return given


def _computed(model: ir.Model, op: Op, found: Found) -> Steady | None:
    """What a pointwise operator makes of what is known, by running it; in the place of the rest stand zeros."""
    if not any(value in found for value in op.node.inputs):
        gates = [array for i in range(len(op.node.inputs)) if (array := op.array(i)) is not None]
        if op.node.op_type not in ("Mul", "Where") or all(array.all() for array in gates):
            return None
    given = _given(op, found)
    real = [one.numbers.dtype for one in given if one is not None and one.numbers.dtype.kind == "f"]
    filler = real[0] if real else np.dtype(np.float32)
    filled = {i: one or _nothing(op, i, filler) for i, one in enumerate(given) if op.has(i)}
    known = decided(op, list(filled.values()))
    numbers = _run(model, op.node, {i: _neutral(one) for i, one in filled.items()}) if known.any() else None
    return None if numbers is None else Steady(numbers, np.broadcast_to(known, numbers.shape))


def _neutral(one: Steady) -> Array:
    return np.where(one.known, one.numbers, np.zeros((), one.numbers.dtype))


def _nothing(op: Op, index: int, dtype: np.dtype) -> Steady:
    dims = [1] * len(op.shape(index))
    declared = op.input(index).dtype
    return Steady(np.zeros(dims, dtype if declared is None else declared.numpy()), np.zeros(dims, np.bool_))


def _normalised(model: ir.Model, op: Op, zeroed: Mask, found: Found) -> Steady | None:
    """Where the factor is zero the shift remains; elsewhere what is known of the input is run through."""
    dims = [1] * len(op.shape())
    dims[1] = -1
    shift, zeroed = np.asarray(op.array(2)).reshape(dims), zeroed.reshape(dims)
    given = found.get(op.input(0)) if channelwise(op) else None
    if given is None:
        return Steady(shift, zeroed)
    alike = [shift.size if axis == 1 else size for axis, size in enumerate(given.known.shape)]
    known = np.broadcast_to(given.known, alike)
    others = {i: np.asarray(op.array(i)) for i in range(1, len(op.node.inputs))}
    numbers = _run(model, op.node, {0: np.broadcast_to(_neutral(given), alike), **others})
    return Steady(shift, zeroed) if numbers is None else Steady(np.where(zeroed, shift, numbers), zeroed | known)


def _run(model: ir.Model, node: ir.Node, given: Mapping[int, Array]) -> Array | None:
    """The first output of this very node on these inputs; None where the runtime does not take them."""
    feeds = {str(v.name): given[i] for i, v in enumerate(node.inputs) if v is not None}
    infos = [
        onnx.helper.make_tensor_value_info(name, ir.DataType.from_numpy(array.dtype).value, None)
        for name, array in feeds.items()
    ]
    result = onnx.ValueInfoProto(name=node.outputs[0].name)
    graph = onnx.helper.make_graph([ir.to_proto(node)], "alone", infos, [result])
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    made = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    try:
        return np.array(run(open_session(ir.from_proto(made), lent=False), feeds)[node.outputs[0].name or ""])
    except BadInput:
        return None


def _moved(op: Op, found: Found) -> list[Steady | None]:
    """What an operator hands on, by the atoms that its rule found on both sides."""
    numbers = _by_atom(op, found)
    outputs = op.node.outputs if op.node.op_type == "Split" else op.node.outputs[:1]
    return [None if numbers is None else _at_atoms(op, index, *numbers) for index in range(len(outputs))]


Numbered = tuple[Array, Array, Mask]
"""Distinct atoms, ascending; what each holds; whether that is known."""


def _by_atom(op: Op, found: Found) -> Numbered | None:
    parts = [
        part
        for index, value in enumerate(op.node.inputs)
        if value in found
        for label in op.labels(index)
        if (part := _on_label(found[value], label, op)) is not None
    ]
    if not parts:
        return None
    atoms, numbers, known = (np.concatenate([part[k].reshape(-1) for part in parts]) for k in range(3))
    own, first, member = np.unique(atoms, return_index=True, return_inverse=True)
    alike = known & (numbers == numbers[first][member])
    certain = np.ones(own.size, np.bool_)
    np.logical_and.at(certain, member, alike)
    numbers = numbers[first]
    return own, numbers, certain & (own != WHOLE) & KEEPS[op.node.op_type](op, numbers)


def _on_label(one: Steady, label: Label, op: Op) -> Numbered | None:
    """What is known along a label, if it does not vary along other axes too."""
    shape = one.known.shape
    if any(size != 1 and axis not in label.axes for axis, size in enumerate(shape)):
        return None
    if op.node.op_type in GATHERS and len(label.axes) > 1:
        return None
    index = tuple(slice(None) if axis in label.axes else 0 for axis in range(len(shape)))
    numbers, known = (np.broadcast_to(array[index], label.atoms.shape) for array in (one.numbers, one.known))
    return label.atoms, numbers, known


def _at_atoms(op: Op, index: int, atoms: Array, numbers: Array, known: Mask) -> Steady | None:
    """What is known along that label of an output along which most is."""
    best: Steady | None = None
    rank = len(op.out_shape(index))
    for label in op.labelled.get(op.node.outputs[index], ()):
        place = np.minimum(np.searchsorted(atoms, label.atoms), atoms.size - 1)
        certain = known[place] & (atoms[place] == label.atoms)
        dims = [op.out_shape(index)[axis] if axis in label.axes else 1 for axis in range(rank)]
        one = Steady(numbers[place].reshape(dims), certain.reshape(dims))
        best = one if best is None or one.known.mean() > best.known.mean() else best
    return best
