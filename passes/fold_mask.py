"""Channels that nobody reads, or that hold one number: what goes exactly, and what goes into biases in its place.

No weight is solved, no data are read. A channel goes where every reader's weights for it are zero, or where the reader
gets the same number from it at every position: that number times its weights is then added to the reader's bias.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.constants import computed_constants, constant_array
from onnxprune.dependency import Analysis, Group, Keep, Slot
from onnxprune.graph import Array, array_of, replace_constant, values_by_name
from onnxprune.labels import WHOLE
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.steady import Mask, Steady, affine, sees_borders
from onnxprune.passes.remove import remove
from onnxprune.steady import columns
from onnxprune.weights import bias_behind, from_vector, to_matrix, to_vector, weight_of

BORDER = "it holds a number that {} would miss at its border"
BIAS = "it holds a number, and the bias of {} is computed or shared"
LAST = "one channel has to stay"
BALANCED = "as many must go from each group of a grouped convolution"
TOGETHER = "a tensor would be left empty"


@dataclass(frozen=True, eq=False)
class Exact:
    """What can go: `keep` what stays of all units; `dead` and `steady` blocks that go, by group; and why others stay.

    `shifts` is what goes into the bias of each layer, by node: (groups, n). `stuck`: (group, reason) → blocks.
    """

    keep: Keep
    dead: Mapping[str, int]
    steady: Mapping[str, int]
    shifts: Mapping[str, Array]
    stuck: Mapping[tuple[str, str], int]

    @property
    def any(self) -> bool:
        """Whether any channel goes."""
        return not bool(np.all(self.keep))


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer as a reader: its matrix (groups, n, F), and the number (groups, F) of each column where it is `known`."""

    linear: Linear
    matrix: Array
    numbers: Array
    known: Mask

    def used(self) -> Mask:
        """(groups, F) columns with any weight."""
        return np.asarray(np.any(self.matrix != 0, axis=1))


def exact(analysis: Analysis, found: Mapping[ir.Value, Steady]) -> Exact:
    """Find what can go without any change of the outputs; `found` tells what is certain of the activations."""
    readers = list(_readers(analysis, found))
    stays, carried, reasons = _judged(analysis, found, readers)
    keep, stuck = _chosen(analysis, ~stays, reasons)
    gone = {group.name: int(np.sum(~group.kept(keep))) for group in analysis.groups}
    steady = {group.name: _count(group, keep, carried) for group in analysis.groups}
    dead = {name: count - steady[name] for name, count in gone.items()}
    shifts = {x.linear.node.name or "": s for x in readers if np.any(s := _shift(x, keep))}
    return Exact(keep, dead, steady, shifts, stuck)


def without_bias(analysis: Analysis, shifts: Mapping[str, Array]) -> list[str]:
    """The layers that have no bias to take a shift."""
    return [x.node.name or "" for x in analysis.linears if x.node.name in shifts and bias_of(x) is None]


def remove_exactly(analysis: Analysis, found: Exact) -> ir.Model:
    """The model without these channels, and with what they held in the biases behind them."""
    model = remove(analysis, found.keep)
    values = values_by_name(model)
    for linear in analysis.linears:
        shift, bias = found.shifts.get(linear.node.name or ""), bias_of(linear)
        if shift is not None and bias is not None:
            value = values[bias.name or ""]
            left, array = shift[found.keep[linear.outputs]], array_of(value)
            vector = to_vector(linear, array.astype(np.float64)) + left
            replace_constant(value, from_vector(linear, vector, array.astype(np.float64)))
    return model


def bias_of(linear: Linear) -> ir.Value | None:
    """The constant that is added to a layer's output, by itself or by the Add behind it."""
    return bias_behind(linear.node) if linear.kind == "matmul" and linear.bias is None else linear.bias


def _readers(analysis: Analysis, found: Mapping[ir.Value, Steady]) -> Iterator[_Reader]:
    for linear in analysis.linears:
        if affine(linear) and linear.refit and linear.node.graph is analysis.model.graph:
            matrix = to_matrix(linear, weight_of(analysis.model, linear))
            yield _Reader(linear, matrix, *columns(analysis, found, linear))


def _judged(
    analysis: Analysis, found: Mapping[ir.Value, Steady], readers: Sequence[_Reader]
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


def _free(reader: _Reader) -> Mask:
    """(groups, F) columns that can go: what they hold is known, and is nothing or can go into the bias."""
    takes = not sees_borders(reader.linear) and _takes_bias(reader.linear)
    return np.asarray(reader.known & (takes | (reader.numbers == 0)))


def _takes_bias(linear: Linear) -> bool:
    bias = bias_of(linear)
    if bias is None:
        return linear.bias is None and linear.weight.const_value is not None
    own = bias.is_initializer() and bias.const_value is not None and len(bias.uses()) == 1
    return own and not bias.is_graph_output() and array_of(bias).size == linear.outputs.size


def _by_weights(analysis: Analysis, found: Mapping[ir.Value, Steady], readers: Sequence[_Reader], stays: Mask) -> None:
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


def _chosen(analysis: Analysis, free: Mask, reasons: Mapping[int, str]) -> tuple[Keep, dict[tuple[str, str], int]]:
    """What stays when every group loses what it can; and why blocks stay that could be thought to go."""
    keep, stuck = analysis.keep_all(), dict[tuple[str, str], int]()
    for group in analysis.groups:
        goes = np.ones(group.width, np.bool_)
        goes[group.member[~free[group.units]]] = False
        _count_reasons(group, goes, reasons, stuck)
        trial, taken = keep.copy(), _balanced(group, goes)
        group.cut(trial, ~taken)
        if goes.sum() > taken.sum():
            reason = LAST if goes.all() else BALANCED
            stuck[group.name, reason] = int(goes.sum() - taken.sum())
        if taken.any() and _leaves_something(analysis, trial):
            keep = trial
        elif taken.any():
            stuck[group.name, TOGETHER] = int(taken.sum())
    return keep, stuck


def _count_reasons(group: Group, goes: Mask, reasons: Mapping[int, str], stuck: dict[tuple[str, str], int]) -> None:
    told = {int(b): reasons[int(u)] for u, b in zip(group.units, group.member, strict=True) if int(u) in reasons}
    for block, reason in told.items():
        if not goes[block]:
            stuck[group.name, reason] = stuck.get((group.name, reason), 0) + 1


def _balanced(group: Group, goes: Mask) -> Mask:
    """Of the blocks that could go as many from each row, and never the last."""
    rows = np.zeros(group.width, np.int64) if group.rows is None else group.rows
    sizes, counts = np.bincount(rows), np.bincount(rows, weights=goes).astype(np.int64)
    most = min(int(counts.min()), int(sizes.min()) - 1)
    taken = np.zeros(group.width, np.bool_)
    for row in range(len(sizes)):
        taken[np.flatnonzero(goes & (rows == row))[::-1][:most]] = True
    return taken


def _leaves_something(analysis: Analysis, keep: Keep) -> bool:
    """A whole head here and a column there may leave nothing of a slice of a tensor."""
    return all(bool(keep[slot.label.atoms].any()) for slot in analysis.slots)


def _count(group: Group, keep: Keep, own: Mask) -> int:
    """The blocks of a group that go and have a unit of a kind."""
    gone = np.zeros(group.width, np.bool_)
    gone[group.member[own[group.units]]] = True
    return int(np.sum(gone & ~group.kept(keep)))


def _shift(reader: _Reader, keep: Keep) -> Array:
    """(groups, n) what the columns that go added to the output."""
    gone = ~keep[reader.linear.features] & reader.known & (reader.numbers != 0)
    if not gone.any():
        return np.zeros(reader.matrix.shape[:2])
    return np.asarray(np.einsum("gnf,gf->gn", reader.matrix.astype(np.float64), np.where(gone, reader.numbers, 0)))
