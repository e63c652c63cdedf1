"""Rules of the operators that pick or write positions by index: Gather, Scatter and their kin."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph import SAMPLER, array_of
from onnxprune.labels import Atoms, Label, Labels, apart_from, on, reshaped, touching
from onnxprune.op_rules.elementwise import together
from onnxprune.op_rules.facts import Facts, Fixed, Index, Out, Param
from onnxprune.op_rules.registry import Op, fix, rule, stays_whole

Indices = npt.NDArray[np.int64]
COUNTING = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING)
"""Tables of these hold sizes, positions or words, not channels."""


@rule("Gather")
def gather(op: Op) -> Facts:
    """Positions are picked by constant indices, which are numbered anew; other axes, and those of the indices, pass."""
    axis, rank = op.attr("axis", 0) % len(op.shape()), len(op.shape(1))
    if SAMPLER in op.node.meta:
        yield from _sampled(op)
        return
    picked = [label.moved(axis) for label in op.labels(1)]
    for label in _looked_up(op, axis) if op.constant(0) else ():
        yield Param(0, label)
        picked.append(label.moved(rank - 1))
    for label in op.labels():
        if axis in label.axes and op.array(1) is not None and (rank < 2 or len(label.axes) == 1):
            yield from _picked(op, label, axis)
            picked += _at(label, axis, array_of(op.input(1)).astype(np.int64))
        elif axis in label.axes or label.axes[0] < axis < label.axes[-1]:
            yield Fixed(label.atoms, "Gather picks positions that are not known, or between its axes")
        else:
            picked.append(label if label.axes[-1] < axis else label.moved(rank - 1))
    yield Out(0, tuple(picked))


def _sampled(op: Op) -> Facts:
    """A channel sampler drops channels for its reader alone: its input stays whole, its indices are cut."""
    yield from fix(op.labels(), "a channel sampler picks from it")
    axis = op.attr("axis") % len(op.shape())
    fresh = op.fresh(op.shape(1)[0])
    yield Param(1, Label((0,), fresh))
    yield Out(0, on(axis, fresh))


def _looked_up(op: Op, axis: int) -> Labels:
    """New atoms for the entries of a table: what one index fetches is a vector of channels."""
    widths = op.shape()[axis + 1 :]
    count = int(np.prod(widths))
    if op.input(0).dtype in COUNTING or count < 2:
        return ()
    entries, _ = reshaped(on(0, op.fresh(count)), (count,), widths)
    return tuple(label.moved(axis + 1) for label in entries)


def _picked(op: Op, label: Label, axis: int) -> Facts:
    if len(label.axes) > 1:
        yield stays_whole(label, axis)
        return
    yield Index(op.node, 1, label)
    if not op.shape(1):  # the picked position becomes the whole output, so it must stay
        yield Fixed(label.atoms[array_of(op.input(1)).reshape(-1)], "Gather picks one position")


def _at(label: Label, axis: int, indices: Indices) -> Labels:
    """A label after positions of one axis are picked: that axis becomes those of the indices."""
    if indices.ndim == 0:
        return _without(label, axis, int(indices))
    atoms: Atoms = np.take(label.atoms, indices.reshape(-1), axis=label.axes.index(axis))
    if indices.ndim == 1:
        return (Label(label.axes, atoms),)
    spread, _ = reshaped(on(0, atoms), (indices.size,), indices.shape)
    return tuple(x.moved(axis) for x in spread)


def _without(label: Label, axis: int, position: int) -> Labels:
    """A label after one position of an axis is picked and the axis is gone."""
    left = tuple(a - (a > axis) for a in label.axes if a != axis)
    return (Label(left, np.asarray(label.atoms.take(position, axis=label.axes.index(axis)))),) if left else ()


@rule("GatherElements")
def gather_elements(op: Op) -> Facts:
    """Along every other axis the indices lie position by position on the data; along the axis they pass alone."""
    axis = op.attr("axis", 0) % len(op.shape())
    apart = _uneven(op, (0, 1), axis)
    own = tuple(label for label in op.labels(1) if label.axes == (axis,))
    yield from fix(touching(op.labels(), apart), "GatherElements picks positions along its axis, or only some")
    yield from fix(tuple(x for x in touching(op.labels(1), apart) if x not in own), "GatherElements picks by it")
    yield Out(0, (*(yield from together(op, {0: 0, 1: 0}, apart)), *own))


@rule("Scatter", "ScatterElements", "TensorScatter")
def scatter_elements(op: Op) -> Facts:
    """All inputs lie position by position on each other, but for the axis along which is written."""
    cache = op.node.op_type == "TensorScatter"
    axis = op.attr("axis", -2 if cache else 0) % len(op.shape())
    inputs = (0, 1) if cache else (0, 1, 2)
    apart = [*_uneven(op, inputs, axis), *([0] if op.has(2) and cache else [])]
    for index in inputs:
        yield from fix(touching(op.labels(index), apart), f"{op.node.op_type} writes along its axis, or only a part")
    yield Out(0, (yield from together(op, dict.fromkeys(inputs, 0), apart)))


def _uneven(op: Op, inputs: Sequence[int], axis: int) -> list[int]:
    """The axis of the indices, and those along which the inputs have different sizes."""
    return [a for a in range(len(op.shape())) if a == axis or len({op.shape(i)[a] for i in inputs}) > 1]


@rule("GatherND")
@rule("GatherND", domain="com.microsoft")
def gather_nd(op: Op) -> Facts:
    """The axes behind those that are indexed pass."""
    last = len(op.shape(1)) - 1
    indexed = range(op.attr("batch_dims", 0) + op.shape(1)[-1])
    yield from fix(touching(op.labels(), indexed), "GatherND picks positions along its axis")
    yield from fix(op.labels(1), "GatherND picks by it")
    yield Out(0, tuple(label.moved(last - len(indexed)) for label in apart_from(op.labels(), indexed)))


@rule("ScatterND")
def scatter_nd(op: Op) -> Facts:
    """The axes behind those that are indexed lie position by position on the updates'."""
    last = len(op.shape(1)) - 1
    indexed = range(op.shape(1)[-1])
    yield from fix(touching(op.labels(), indexed), "ScatterND writes along its axis")
    yield from fix(touching(op.labels(2), range(last)), "ScatterND writes along its axis")
    yield from fix(op.labels(1), "ScatterND writes where it tells")
    yield Out(0, (yield from together(op, {0: 0, 2: len(indexed) - last}, indexed)))
