"""Channels that nobody reads, or that hold one number: what goes exactly, and what goes into biases in its place.

No weight is solved, no data are read. A channel goes where every reader's weights for it are zero, or where the reader
gets the same number from it at every position: that number times its weights is then added to the reader's bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, Group, Keep
from onnxprune.graph import Array, array_of, replace_constant, values_by_name
from onnxprune.labels import WHOLE
from onnxprune.op_rules.steady import Mask, Steady, affine, channel_axis
from onnxprune.passes.needed import Reader, affine_readers, bias_of, judged
from onnxprune.passes.remove import remove
from onnxprune.steady import channels
from onnxprune.weights import from_vector, to_vector

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

    def groups(self) -> list[str]:
        """The groups that lose any channel."""
        return [name for name, dead in self.dead.items() if dead + self.steady[name]]

    @property
    def any(self) -> bool:
        """Whether any channel goes."""
        return not bool(np.all(self.keep))


def exact(
    analysis: Analysis, found: Mapping[ir.Value, Steady], refused: Mapping[str, str], only: str | None = None
) -> Exact:
    """Find what can go without any change of the outputs; `found` tells what is certain of the activations.

    Groups that are `refused`, with a reason, stay whole, or all but one.
    """
    readers = list(affine_readers(analysis, found))
    stays, carried, reasons = judged(analysis, found, readers)
    keep, stuck = _chosen(analysis, ~stays, reasons, {**refused, **_others(analysis, only)})
    gone = {group.name: int(np.sum(~group.kept(keep))) for group in analysis.groups}
    steady = {group.name: _count(group, keep, carried) for group in analysis.groups}
    dead = {name: count - steady[name] for name, count in gone.items()}
    stuck |= _closed(analysis, found)
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


def _others(analysis: Analysis, only: str | None) -> dict[str, str]:
    return {group.name: "" for group in analysis.groups if only is not None and group.name != only}


def _chosen(
    analysis: Analysis, free: Mask, reasons: Mapping[int, str], refused: Mapping[str, str]
) -> tuple[Keep, dict[tuple[str, str], int]]:
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
        if taken.any() and group.name in refused:
            stuck[group.name, refused[group.name]] = int(taken.sum())
        elif taken.any() and _leaves_something(analysis, trial):
            keep = trial
        elif taken.any():
            stuck[group.name, TOGETHER] = int(taken.sum())
    return keep, stuck


def _closed(analysis: Analysis, found: Mapping[ir.Value, Steady]) -> dict[tuple[str, str], int]:
    """Channels that hold one number as their layer makes them, and cannot go for any reason that pruning has."""
    reasons: dict[str, str] = {}
    for closed in analysis.closed:
        reasons.setdefault(closed.name, closed.reason)
    counts = {}
    for linear in analysis.linears:
        name = linear.node.name or ""
        if name in reasons and affine(linear) and linear.y in found:
            known = channels(found, linear.y, channel_axis(linear), linear.outputs.size)[1]
            if count := int(np.sum(known & (linear.outputs.reshape(-1) == WHOLE))):
                counts[name, reasons[name]] = count
    return counts


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


def _shift(reader: Reader, keep: Keep) -> Array:
    """(groups, n) what the columns that go added to the output."""
    gone = ~keep[reader.linear.features] & reader.known & (reader.numbers != 0)
    if not gone.any():
        return np.zeros(reader.matrix.shape[:2])
    return np.asarray(np.einsum("gnf,gf->gn", reader.matrix.astype(np.float64), np.where(gone, reader.numbers, 0)))
