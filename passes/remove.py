"""Take the chosen units out of the graph: constants are sliced, sizes rewritten, nothing else changes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import (
    Array,
    add_constant,
    array_of,
    every_node,
    names_in,
    nodes_by_name,
    replace_constant,
    replace_lazily,
    values_by_name,
)
from onnxprune.labels import Label
from onnxprune.op_rules.facts import Index, Size
from onnxprune.op_rules.registry import cut
from onnxprune.serialise import BIG, release
from onnxprune.trace import Trace

ROWS_AT_ONCE = 8_000_000
"""Bytes of a big constant that are looked at together."""


def remove(analysis: Analysis, keep: Keep) -> ir.Model:
    """The model without the units that `keep` drops; the analysed model is not changed."""
    model = analysis.model.clone()
    values = values_by_name(model)
    for original, slots in analysis.param_slots().items():
        labels = [slot.label for slot in slots]
        if original.const_value is not None and any(_loses(label, keep) for label in labels):
            _cut(values[original.name or ""], original, labels, keep)
    _renumber(model, [index for index in analysis.indices if _loses(index.label, keep)], keep)
    _rewrite_sizes(analysis, model, keep)
    _name_squeezed_axes(analysis, model, keep)
    _update_shapes(analysis, values, keep)
    return model


def _cut(value: ir.Value, original: ir.Value, labels: Sequence[Label], keep: Keep) -> None:
    shape = array_of(original).shape
    if original.const_value is None or original.const_value.nbytes < BIG:
        replace_constant(value, sliced(array_of(original), labels, keep))
    else:
        left = sliced(np.broadcast_to(np.int8(0), shape), labels, keep).shape
        replace_lazily(value, left, lambda: _cut_by_rows(original, labels, keep, left))


def _cut_by_rows(original: ir.Value, labels: Sequence[Label], keep: Keep, shape: tuple[int, ...]) -> Array:
    """What stays of a constant; of what it is mapped from no more than some rows are in memory."""
    left, filled = np.empty(shape, array_of(original).dtype), 0
    for part, here in some_rows(original, labels):
        stays = part[selector(part.shape, here, keep)]
        left.reshape(-1)[filled : filled + stays.size] = stays
        filled += stays.size
    return left


def some_rows(original: ir.Value, labels: Sequence[Label]) -> Iterator[tuple[Array, list[Label]]]:
    """A constant in pieces along its first axis, each with the labels that lie on it."""
    array = array_of(original)
    step = max(1, ROWS_AT_ONCE * len(array) // max(array.nbytes, 1)) if array.ndim else 1
    for first in range(0, len(array), step):
        where = slice(first, first + step)
        yield array[where], [cut(label, 0, where) if 0 in label.axes else label for label in labels]
        release(original.const_value)


def _loses(label: Label, keep: Keep) -> bool:
    return not bool(np.all(keep[label.atoms]))


def selector(shape: tuple[int, ...], labels: Sequence[Label], keep: Keep) -> Array:
    """Which elements of a constant stay: a boolean array of its shape."""
    mask = np.ones(shape, np.bool_)
    for label in labels:
        dims = [shape[a] if a in label.axes else 1 for a in range(len(shape))]
        mask &= keep[label.atoms].reshape(dims)
    return mask


def sliced(array: Array, labels: Sequence[Label], keep: Keep) -> Array:
    """The elements of a constant that stay, row-major, as a tensor again."""
    by_axes = {label.axes: label for label in labels}  # uses of one constant are tied: their labels agree
    if all(len(axes) == 1 for axes in by_axes):
        for axes, label in by_axes.items():
            array = np.compress(keep[label.atoms], array, axis=axes[0])
        return array
    mask = selector(array.shape, labels, keep)
    return array[mask].reshape([_length(mask, axis, labels, keep) for axis in range(array.ndim)])


def _length(mask: Array, axis: int, labels: Sequence[Label], keep: Keep) -> int:
    own = [label for label in labels if label.axes == (axis,)]
    return int(keep[own[0].atoms].sum()) if own else int(mask.sum(axis=axis).max())


def count(size: Size, keep: Keep) -> int:
    """How many positions of a size's axis stay, or how many there were where the number is pinned."""
    if size.pinned:
        return size.current[size.element or 0]
    lines = np.moveaxis(keep[size.label.atoms], size.axis, 0)
    stays = np.asarray(lines.reshape(len(lines), -1).any(axis=1))
    return int(stays[: size.upto].sum())


def _rewrite_sizes(analysis: Analysis, model: ir.Model, keep: Keep) -> None:
    sizes = [size for size in analysis.sizes if _loses(size.label, keep)]
    nodes, taken = nodes_by_name(model), names_in(model.graph)
    by_place: dict[tuple[str, int | str], list[Size]] = defaultdict(list)
    for size in sizes:
        by_place[size.node.name or "", size.place].append(size)
    for (name, place), here in by_place.items():
        if isinstance(place, int):
            given = nodes[name].inputs[place] if place < len(nodes[name].inputs) else None
            _replace_input(model.graph, nodes[name], place, _new_numbers(given, here, keep, analysis.trace), taken)
        else:
            _rewrite_attribute(nodes[name], place, here, keep)
    if any(size.current for size in sizes):  # what computed those sizes may be dead now
        RemoveUnusedNodesPass()(model)


def _new_numbers(given: ir.Value | None, sizes: Sequence[Size], keep: Keep, trace: Trace) -> Array:
    constant = given is not None and given.const_value is not None
    dtype = np.int64 if given is None or given.dtype is None else given.dtype.numpy()
    numbers = array_of(given).copy() if given is not None and constant else np.array(sizes[0].current, dtype)
    for size in sizes:
        numbers.reshape(-1)[size.element] = count(size, keep)
    return numbers if given is None or constant else numbers.reshape(trace.shape(given))


def _replace_input(graph: ir.Graph, node: ir.Node, place: int, numbers: Array, taken: set[str]) -> None:
    """A list of sizes may be shared by nodes that now need different ones: each gets its own."""
    given = node.inputs[place] if place < len(node.inputs) else None
    fresh = add_constant(graph, f"{node.name}.sizes", numbers, taken=taken)
    node.resize_inputs(max(place + 1, len(node.inputs)))
    node.replace_input_with(place, fresh)
    node.attributes.pop("num_outputs", None)
    if (
        given is not None
        and given.is_initializer()
        and not (given.uses() or given.is_graph_output() or given.is_graph_input())
    ):
        assert given.graph is not None
        del given.graph.initializers[given.name or ""]


def _renumber(model: ir.Model, indices: Sequence[Index], keep: Keep) -> None:
    """Picked positions that go are no longer picked; the others move down."""
    nodes, taken = nodes_by_name(model), names_in(model.graph)
    for index in indices:
        node, stays = nodes[index.node.name or ""], keep[index.label.atoms]
        given = node.inputs[index.place]
        assert given is not None
        old = array_of(given)
        numbers = _rectangle((np.cumsum(stays) - 1)[old], stays[old]).astype(old.dtype)
        _replace_input(model.graph, node, index.place, numbers, taken)


def _rectangle(numbers: Array, stays: Array) -> Array:
    """The numbers that stay of an array of any rank, of which whole lines go."""
    axes = range(numbers.ndim)
    lengths = [int(stays.any(axis=tuple(a for a in axes if a != axis)).sum()) for axis in axes]
    return np.asarray(numbers[stays].reshape(lengths) if lengths else numbers)


def _rewrite_attribute(node: ir.Node, name: str, sizes: Sequence[Size], keep: Keep) -> None:
    if sizes[0].element is None:
        node.attributes[name] = ir.AttrInt64(name, count(sizes[0], keep))
        return
    given = node.attributes.get(name)
    numbers = list(sizes[0].current if given is None else given.as_ints())
    for size in sizes:
        assert size.element is not None
        numbers[size.element] = count(size, keep)
    node.attributes[name] = ir.AttrInt64s(name, numbers)


def _name_squeezed_axes(analysis: Analysis, model: ir.Model, keep: Keep) -> None:
    """A Squeeze without axes would also drop a channel axis of which one position stays: it is told which to drop."""
    nodes = nodes_by_name(model)
    changed = {slot.value for slot in analysis.slots if slot.reader is None and _loses(slot.label, keep)}
    for node in every_node(analysis.model):
        given = node.inputs[0] if node.op_type == "Squeeze" and node.outputs[0] in changed else None
        if given is None or "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None):
            continue
        axes = [axis for axis, size in enumerate(analysis.trace.shape(given)) if size == 1]
        if model.opset_imports.get("", 13) < 13:
            nodes[node.name or ""].attributes["axes"] = ir.AttrInt64s("axes", axes)
        else:
            fresh = np.array(axes, np.int64)
            _replace_input(model.graph, nodes[node.name or ""], 1, fresh, names_in(model.graph))


def _update_shapes(analysis: Analysis, values: dict[str, ir.Value], keep: Keep) -> None:
    """Declared sizes of the axes that lost channels follow; where an axis is factored they are left out."""
    for slot in analysis.slots:
        value = values[slot.value.name or ""]
        if value.const_value is not None or value.shape is None or not _loses(slot.label, keep):
            continue
        dims: list[int | ir.SymbolicDim | None] = list(value.shape.dims)
        for axis in slot.label.axes:
            if axis < len(dims) and isinstance(dims[axis], int):
                dims[axis] = int(keep[slot.label.atoms].sum()) if len(slot.label.axes) == 1 else None
        value.shape = ir.Shape(dims)
