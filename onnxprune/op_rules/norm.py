"""Rules of the normalisations that treat each channel, or each group of channels, by itself."""

import numpy as np

from onnxprune.labels import Atoms, atoms_of, on
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Size, Tie
from onnxprune.op_rules.registry import Op, fix, hold, rule, without


@rule("BatchNormalization", "InstanceNormalization")
def channel_norm(op: Op) -> Facts:
    """One scale, shift and statistic a channel, and no channel sees another."""
    others = set(range(len(op.shape()))) - {1}
    yield from hold(op.labels(), others, f"{op.node.op_type} takes its mean and variance over it")
    channels = atoms_of(without(op.labels(), others), 1, op.shape()[1])
    yield from _vectors(op, channels)
    yield Out(0, tuple(label for label in op.labels() if 1 in label.axes))


@rule("GroupNormalization")
def group_norm(op: Op) -> Facts:
    """A statistic a group of channels: whole groups can go, and `num_groups` follows."""
    other = tuple(label for label in op.labels() if label.axes != (1,))
    yield from fix(other, f"{op.node.op_type} takes its mean and variance over it")
    channels = op.atoms(1)
    rows = channels.reshape(op.attr("num_groups"), -1)
    yield Tie(np.broadcast_to(rows[:, :1], rows[:, 1:].shape), rows[:, 1:])
    yield from _vectors(op, channels)
    yield from (Size(op.node, "num_groups", None, label) for label in on(1, rows[:, 0]))
    yield Out(0, on(1, channels))


def _vectors(op: Op, channels: Atoms) -> Facts:
    """The parameters, one number a channel."""
    for label in on(0, channels):
        for index in range(1, len(op.node.inputs)):
            if op.constant(index):
                yield Param(index, label)
            else:
                yield Fixed(channels, f"{op.node.op_type} takes computed parameters")
