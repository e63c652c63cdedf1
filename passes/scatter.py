"""The oracle's wide graph: final weights back in their original places, zeros wherever a removed channel is read."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array, add_constant, array_of, constants, nodes_by_name, replace_constant, values_by_name
from onnxprune.grouping import Slot
from onnxprune.op_rules.part import PARTS, Part
from onnxprune.passes.remove import selector


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
        if final is not None and final.const_value is not None:
            wide = _scattered(array_of(original), array_of(final), slots.get(original, []), keep)
            if wide is not None:
                replace_constant(wides[original.name or ""], wide)
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


def _scattered(original: Array, final: Array, slots: list[Slot], keep: Keep) -> Array | None:
    """None where nothing of the constant changed."""
    labels = [slot.label for slot in slots]
    if not any(not np.all(keep[label.atoms]) for label in labels):
        return final if final.tobytes() != original.tobytes() else None
    wide = original.copy()
    for slot in slots:
        if slot.contracted:
            gone = ~selector(original.shape, [slot.label], keep)
            wide[gone] = 0 if slot.nothing is None else np.broadcast_to(slot.nothing, original.shape)[gone]
    wide[selector(original.shape, labels, keep)] = final.reshape(-1)
    return wide
