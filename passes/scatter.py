"""The oracle's wide graph: final weights back in their original places, zeros wherever a removed channel is read."""

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array, array_of, replace_constant, values_by_name
from onnxprune.grouping import Slot
from onnxprune.passes.remove import selector


def scatter(analysis: Analysis, slim: ir.Model, keep: Keep) -> ir.Model:
    """The analysed model with the weights of `slim`, which `remove` made of it and a rebuild may have changed.

    Removed channels are still computed there, from the original weights; only who reads them gets zeros. So the two
    models agree only if nothing of a removed channel reaches an output.
    """
    model = analysis.model.clone()
    finals, wides = values_by_name(slim), values_by_name(model)
    slots = analysis.param_slots()
    for original in analysis.model.graph.initializers.values():
        final = finals.get(original.name or "")
        if final is not None and final.const_value is not None:
            wide = _scattered(array_of(original), array_of(final), slots.get(original, []), keep)
            if wide is not None:
                replace_constant(wides[original.name or ""], wide)
    return model


def _scattered(original: Array, final: Array, slots: list[Slot], keep: Keep) -> Array | None:
    """None where nothing of the constant changed."""
    labels = [slot.label for slot in slots]
    if not any(not np.all(keep[label.atoms]) for label in labels):
        return final if final.tobytes() != original.tobytes() else None
    wide = original.copy()
    wide[~selector(original.shape, [slot.label for slot in slots if slot.contracted], keep)] = 0
    wide[selector(original.shape, labels, keep)] = final.reshape(-1)
    return wide
