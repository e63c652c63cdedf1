"""Rules of the operators between numbers and quanta: their scales and zero points follow the channels."""

import numpy as np

from onnxprune.graph import Array
from onnxprune.labels import Atoms, Label
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Summed, Tie
from onnxprune.op_rules.registry import Op, rule, sliced_along


@rule("DequantizeLinear", "QuantizeLinear", domain="com.microsoft")
@rule("DequantizeLinear", "QuantizeLinear")
def quantise(op: Op) -> Facts:
    """Position by position; scales and zero points of channels of their own are cut along."""
    axis = _scaled_axis(op)
    for label in op.labels():
        if len(label.axes) == 1 or op.attr("block_size", 0):
            yield from grid(op, label)
        elif axis in label.axes:
            yield from _lines_cut(op, label, axis)
    yield Out(0, op.labels())


def _lines_cut(op: Op, label: Label, axis: int) -> Facts:
    """A scale for each line of channels that are spread over axes."""
    for index in (index for index in (1, 2) if op.has(index)):
        if op.constant(index):
            yield from sliced_along(op, index, label, [axis], axis)
        else:
            yield Fixed(label.atoms, f"{op.node.name} takes computed scales")


@rule("DynamicQuantizeLinear")
def dynamic(op: Op) -> Facts:
    """The range always includes zero, so a channel of zeros and one that is gone give the others the same quanta."""
    for label in op.labels():
        yield Summed(0, label)
    yield Out(0, op.labels())
    for index in (1, 2):
        yield Out(index, ())


def _scaled_axis(op: Op) -> int:
    """The axis along which scales differ; −1 where there is one for the whole tensor."""
    if int(np.prod(op.shape(1))) == 1 and not op.attr("block_size", 0):
        return -1
    return int(op.attr("axis", 1)) % len(op.shape())


def grid(op: Op, label: Label) -> Facts:
    """How scales and zero points follow a label of the quantised tensor."""
    axis = _scaled_axis(op)
    if op.attr("block_size", 0):
        yield from _blocked(op, label, axis)
    elif axis in label.axes:
        lines = np.moveaxis(label.atoms, label.axes.index(axis), 0).reshape(op.shape()[axis], -1)
        if label.axes == (axis,) or (label.axes[-1] == axis and np.all(lines == lines[:, :1])):
            yield from _cut(op, Label((0,), lines[:, 0]))
        elif label.axes[-1] == axis:
            yield Fixed(label.atoms, f"{op.node.name} has one scale for channels of several groups")
        # Else the label says which columns of each row go: the rows have a label of their own.


def _blocked(op: Op, label: Label, axis: int) -> Facts:
    """A scale for each block of positions along one axis: a block goes as a whole, so that the others stay blocks."""
    if label.axes == (axis,):
        ties, blocks = whole_blocks(label.atoms, int(op.attr("block_size")))
        yield ties
        yield from _cut(op, Label((axis,), blocks))
    elif axis not in label.axes and len(label.axes) == 1:
        yield from _cut(op, label)
    else:
        yield Fixed(label.atoms, f"{op.node.name} has a scale for each block of it, split over axes")


def whole_blocks(atoms: Atoms, size: int) -> tuple[Tie, Atoms]:
    """What lets blocks of so many positions go as a whole only, and an atom for each."""
    blocks = np.pad(atoms, (0, -len(atoms) % size), mode="edge").reshape(-1, size)
    return Tie(np.broadcast_to(blocks[:, :1], blocks[:, 1:].shape), blocks[:, 1:]), blocks[:, 0]


def _cut(op: Op, label: Label) -> Facts:
    for index in (1, 2):
        if op.constant(index):
            yield Param(index, label)
        elif op.has(index):
            yield Fixed(label.atoms, f"{op.node.name} takes computed scales")


def zero_point(op: Op) -> Array | None:
    """What stands for zero, to broadcast over the tensor; None where zero itself does, or it is not known."""
    zero = op.array(2)
    if zero is None or zero.size == 1:
        return None if zero is None or not np.any(zero) else zero.reshape(())
    axis, shape = _scaled_axis(op), op.shape()
    if not op.attr("block_size", 0):
        return zero.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.repeat(zero, int(op.attr("block_size")), axis).take(range(shape[axis]), axis)
