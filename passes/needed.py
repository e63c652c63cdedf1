"""Which units the outputs need: those that some reader gives a weight to, and that may hold more than one number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.constants import computed_constants, constant_array
from onnxprune.dependency import Analysis, Slot
from onnxprune.graph import Array, array_of
from onnxprune.labels import WHOLE
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.steady import Mask, Steady, affine, sees_borders
from onnxprune.steady import columns
from onnxprune.weights import bias_behind, to_matrix, weight_of

BORDER = "it holds a number that {} would miss at its border"
BIAS = "it holds a number, and the bias of {} is computed or shared"


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer as a reader: its matrix (groups, n, F), and the number (groups, F) of each column where it is `known`."""

    linear: Linear
    matrix: Array
    numbers: Array
    known: Mask

    def used(self) -> Mask:
        """(groups, F) columns with any weight."""
        return np.asarray(np.any(self.matrix != 0, axis=1))


def bias_of(linear: Linear) -> ir.Value | None:
    """The constant that is added to a layer's output, by itself or by the Add behind it."""
    return bias_behind(linear.node) if linear.kind == "matmul" and linear.bias is None else linear.bias


def affine_readers(analysis: Analysis, found: Mapping[ir.Value, Steady]) -> Iterator[Reader]:
    """The layers whose input may be replaced by a bias, and what is certain of it."""
    for linear in analysis.linears:
        if affine(linear) and linear.refit and linear.node.graph is analysis.model.graph:
            matrix = to_matrix(linear, weight_of(analysis.model, linear))
            yield Reader(linear, matrix, *columns(analysis, found, linear))


def judged(
    analysis: Analysis, found: Mapping[ir.Value, Steady], readers: Sequence[Reader]
) -> tuple[Mask, Mask, dict[int, str]]:
    """(units + 1,) what must stay, and what is not dead but holds a number; and why units of the latter kind stay."""
    stays, carried = (np.zeros(analysis.units + 1, np.bool_) for _ in range(2))
    stays[WHOLE] = True
    reasons: dict[int, str] = {}
    for reader in readers:
        used, free = reader.used(), _free(reader)
        carried[reader.linear.features[used & free]] = True
        blocked = used & ~free
        stays[reader.linear.features[blocked]] = True
        reason = (BORDER if _takes_bias(reader.linear) else BIAS).format(reader.linear.node.name)
        reasons |= dict.fromkeys(np.unique(reader.linear.features[blocked & reader.known]).tolist(), reason)
    _by_weights(analysis, found, readers, stays)
    _by_products(analysis, found, stays)
    for part in analysis.parts:
        stays[part.label.atoms] = True
    return stays, carried, reasons


def _free(reader: Reader) -> Mask:
    """(groups, F) columns that can go: what they hold is known, and is nothing or can go into the bias."""
    takes = not sees_borders(reader.linear) and _takes_bias(reader.linear)
    return np.asarray(reader.known & (takes | (reader.numbers == 0)))


def _takes_bias(linear: Linear) -> bool:
    bias = bias_of(linear)
    if bias is None:
        return linear.bias is None and linear.weight.const_value is not None
    own = bias.is_initializer() and bias.const_value is not None and len(bias.uses()) == 1
    return own and not bias.is_graph_output() and array_of(bias).size == linear.outputs.size


def _by_weights(analysis: Analysis, found: Mapping[ir.Value, Steady], readers: Sequence[Reader], stays: Mask) -> None:
    """Readers of other kinds: what they give a weight to stays, unless it is zero."""
    done = {(x.linear.node, x.linear.weight) for x in readers}
    inputs = {(x.node, x.weight): x.x for x in analysis.linears if x.decode is None}
    computed = computed_constants(analysis.model)
    for slot in analysis.slots:
        node = slot.reader
        if not slot.contracted or node is None or (node, slot.value) in done:
            continue
        if all(value in computed for value in node.outputs):  # what is computed from it is looked at where it is read
            continue
        array = constant_array(analysis.model, slot.value)
        other = tuple(axis for axis in range(array.ndim) if axis not in slot.label.axes)
        read = np.zeros(analysis.units + 1, np.bool_)
        read[slot.label.atoms[np.any(array != (0 if slot.nothing is None else slot.nothing), axis=other)]] = True
        given = inputs.get((node, slot.value)) if slot.nothing is None else None
        stays |= read if given is None else read & ~_zero(analysis, found, given)


def _by_products(analysis: Analysis, found: Mapping[ir.Value, Steady], stays: Mask) -> None:
    """Two computed tensors are summed against each other: what is zero in either adds nothing."""
    by_node: dict[ir.Node, list[Slot]] = {}
    for slot in analysis.summed:
        if slot.reader is not None:
            by_node.setdefault(slot.reader, []).append(slot)
    for slots in by_node.values():
        nothing = np.zeros(analysis.units + 1, np.bool_)
        for slot in slots:
            if slot.zero is None:
                nothing |= _zero(analysis, found, slot.value)
        for slot in slots:
            stays[slot.label.atoms[~nothing[slot.label.atoms]]] = True


def _zero(analysis: Analysis, found: Mapping[ir.Value, Steady], value: ir.Value) -> Mask:
    """(units + 1,) the units that are zero wherever they lie on a value."""
    lies, other = (np.zeros(analysis.units + 1, np.bool_) for _ in range(2))
    one = found.get(value)
    for slot in analysis.slots:
        if slot.value is not value or slot.reader is not None or one is None:
            continue
        lies[slot.label.atoms] = True
        shape = tuple(d if a in slot.label.axes else 1 for a, d in enumerate(analysis.trace.shape(value)))
        nothing = one.known & (one.numbers == 0)
        across = tuple(a for a in range(nothing.ndim) if a not in slot.label.axes)
        certain = np.broadcast_to(nothing.all(axis=across, keepdims=True), shape).reshape(slot.label.atoms.shape)
        other[slot.label.atoms[~certain]] = True
    return lies & ~other
