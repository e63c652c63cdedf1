"""Factors on channels that stay go into the weights that read them, as a gate in front of each reader would have it."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.constants import computed_constants, constant_array
from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array, values_by_name
from onnxprune.grouping import Slot
from onnxprune.native import F64
from onnxprune.op_rules.stored import stored, write
from onnxprune.passes.gates import FLOATS
from onnxprune.passes.remove import sliced


def scale_readers(
    analysis: Analysis, slim: ir.Model, keep: Keep, factors: F64, frozen: Collection[str] = ()
) -> tuple[ir.Model, tuple[str, ...]]:
    """The slim model with every unit multiplied by its factor where layers read it; and the nodes that go without.

    `slim` is what `remove` made; `factors` (units + 1,) ends in 1, for what stays whole. Weights behind a
    DequantizeLinear get the nearest quanta. Without go products of activations, which have no weight; the nodes in
    `frozen`; and weights that something else reads too, that are computed in another way, or are quanta themselves.
    """
    model = slim.clone()
    values, places = values_by_name(model), analysis.param_slots()
    scaled = np.flatnonzero(keep & (factors != 1))
    without = {slot.reader for slot in analysis.summed if np.isin(slot.label.atoms, scaled).any()}
    for node, slots in _readers(analysis, scaled).items():
        own = {slot.value: values[slot.value.name or ""] for slot in slots}
        if node in without or node.name in frozen or not all(_is_real(model, final) for final in own.values()):
            without.add(node)
            continue
        for value, final in own.items():
            wide = _laid([slot for slot in slots if slot.value is value], analysis.trace.shape(value), factors)
            left = sliced(wide, [slot.label for slot in places[value]], keep)
            write(final, constant_array(model, final).astype(np.float64) * left)
    return model, tuple(sorted(node.name or "" for node in without if node is not None))


def _readers(analysis: Analysis, scaled: Array) -> dict[ir.Node, list[Slot]]:
    """The places of weights where any of these units is summed over, by the node that does so."""
    computed, found = computed_constants(analysis.model), defaultdict[ir.Node, list[Slot]](list)
    for slot in analysis.slots:
        if slot.reader is None or not slot.contracted or all(value in computed for value in slot.reader.outputs):
            continue
        if np.isin(slot.label.atoms, scaled).any():
            found[slot.reader].append(slot)
    return found


def _is_real(model: ir.Model, value: ir.Value) -> bool:
    """Whether a weight holds numbers that can be changed, for its reader alone."""
    return stored(value) is not None and ir.DataType.from_numpy(constant_array(model, value).dtype) in FLOATS


def _laid(slots: Sequence[Slot], shape: tuple[int, ...], factors: F64) -> Array:
    """The factors of a weight's elements, in the shape it had."""
    laid = np.ones(shape)
    for label in {slot.label.axes: slot.label for slot in slots}.values():
        laid *= factors[label.atoms].reshape([d if a in label.axes else 1 for a, d in enumerate(shape)])
    return laid
