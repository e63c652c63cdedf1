"""The oracle's wide graph: final weights back in their original places, zeros wherever a removed channel is read."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import (
    Array,
    add_constant,
    array_of,
    constants,
    nodes_by_name,
    replace_constant,
    replace_lazily,
    values_by_name,
)
from onnxprune.grouping import Slot
from onnxprune.op_rules.part import PARTS, Part
from onnxprune.passes.remove import selector, some_rows
from onnxprune.serialise import BIG


def scatter(analysis: Analysis, slim: ir.Model, keep: Keep) -> ir.Model:
    """The analysed model with the weights of `slim`, which `remove` made of it and a rebuild may have changed.

    Removed channels are still computed there, from the original weights; only who reads them gets zeros. So the two
    models agree only if nothing of a removed channel reaches an output.
    """
    model = analysis.model.clone()
    finals, wides = values_by_name(slim), values_by_name(model)
    slots = analysis.param_slots()
    for original in constants(analysis.model):
        final = finals.get(original.name or "")
        if final is not None and final.const_value not in (None, original.const_value):
            _scatter(wides[original.name or ""], original, final, slots.get(original, []), keep)
    _mask_sums(analysis, model, keep)
    _take_parts(analysis, model, keep)
    return model


def _mask_sums(analysis: Analysis, model: ir.Model, keep: Keep) -> None:
    """A product of two computed tensors has no weight to hold the zeros: one of the two is masked."""
    nodes = nodes_by_name(model)
    for slot in analysis.summed:
        if slot.reader is None or np.all(keep[slot.label.atoms]):
            continue
        node = nodes[slot.reader.name or ""]
        index = list(slot.reader.inputs).index(slot.value)
        given = node.inputs[index]
        assert given is not None
        shape = tuple(d if a in slot.label.axes else 1 for a, d in enumerate(analysis.trace.shape(slot.value)))
        mask = selector(shape, [slot.label], keep)
        masked = _masked(model.graph, given, mask, None if slot.zero is None else node.inputs[slot.zero], node.name)
        masked.name, masked.outputs[0].name = f"{node.name}.masked.{index}", f"{node.name}::masked.{index}"
        assert node.graph is not None
        node.graph.insert_before(node, masked)
        node.replace_input_with(index, masked.outputs[0])


def _masked(graph: ir.Graph, given: ir.Value, mask: Array, zero: ir.Value | None, name: str | None) -> ir.Node:
    dtype = given.dtype or ir.DataType.FLOAT
    if zero is None and not dtype.is_integer():
        return ir.node("Mul", [given, add_constant(graph, f"{name}.mask", mask.astype(dtype.numpy()), dtype)])
    if zero is None:
        zero = add_constant(graph, f"{name}.zero", np.zeros((), dtype.numpy()), dtype)
    return ir.node("Where", [add_constant(graph, f"{name}.mask", mask), given, zero])


def _take_parts(analysis: Analysis, model: ir.Model, keep: Keep) -> None:
    """Statistics over channels are of those that stay: their operators are replaced by ones that count those alone."""
    nodes = nodes_by_name(model)
    for slot in analysis.parts:
        if slot.reader is None or np.all(keep[slot.label.atoms]):
            continue
        node, shape = nodes[slot.reader.name or ""], analysis.trace.shape(slot.value)
        dims = tuple(d if a in slot.label.axes else 1 for a, d in enumerate(shape))
        given = node.inputs[0]
        dtype = (given.dtype if given is not None else None) or ir.DataType.FLOAT
        opset = model.opset_imports.get("", 1)
        PARTS[node.op_type](Part(model.graph, node, opset, shape, selector(dims, [slot.label], keep) * 1.0, dtype))
    RemoveUnusedNodesPass()(model)


def _scatter(wide: ir.Value, original: ir.Value, final: ir.Value, slots: Sequence[Slot], keep: Keep) -> None:
    if all(np.all(keep[slot.label.atoms]) for slot in slots):
        wide.const_value = final.const_value
    elif original.const_value is None or original.const_value.nbytes < BIG:
        replace_constant(wide, _scattered(original, final, slots, keep))
    else:
        shape = array_of(original).shape
        replace_lazily(wide, shape, lambda: _scattered(original, final, slots, keep))


def _scattered(original: ir.Value, final: ir.Value, slots: Sequence[Slot], keep: Keep) -> Array:
    # What is made when it is read was cut from the original and nothing else: there it lies already.
    solved = not isinstance(final.const_value, ir.LazyTensor)
    left = array_of(final).reshape(-1) if solved else np.empty(0)
    wide, row = np.empty_like(array_of(original)), 0
    for part, labels in some_rows(original, [slot.label for slot in slots]):
        inside = wide[row : row + len(part)]
        inside[...] = part
        for label, slot in zip(labels, slots, strict=True):
            if slot.contracted:
                gone = ~selector(part.shape, [label], keep)
                inside[gone] = 0 if slot.nothing is None else _nothing(slot.nothing, wide.shape, row, gone)
        if solved:
            stays = selector(part.shape, labels, keep)
            inside[stays] = left[: np.count_nonzero(stays)]
            left = left[np.count_nonzero(stays) :]
        row += len(part)
    return wide


def _nothing(nothing: Array, shape: tuple[int, ...], row: int, gone: Array) -> Array:
    """What is no contribution at the places that go, in the rows from `row` on."""
    found: Array = np.broadcast_to(nothing, shape)[row : row + len(gone)][gone]
    return found
