"""Rules of the normalisations that treat each channel, or each group of channels, by itself."""

import numpy as np

from onnxprune.labels import Atoms, Labels, apart_from, on
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Size, Tie
from onnxprune.op_rules.registry import Op, fix, rule

LINES_MEET = "takes its mean and variance over it"


@rule("BatchNormalization")
def batch_norm(op: Op) -> Facts:
    """One scale, shift and statistic a channel, and no channel sees another."""
    channels = op.atoms(1)
    yield from _vectors(op, channels)
    yield from fix(tuple(label for label in op.labels() if label.axes != (1,)), f"{op.node.op_type} works on axis 1")
    yield Out(0, on(1, channels))


@rule("InstanceNormalization")
def instance_norm(op: Op) -> Facts:
    """One scale and shift a channel; all that is averaged into one statistic goes together."""
    led: Labels = tuple(label for label in op.labels() if label.axes[0] == 1)
    for label in led:
        rows = label.atoms.reshape(len(label.atoms), -1)
        yield _as_one(rows)
        yield from _vectors(op, rows[:, 0])
    yield from fix(tuple(x for x in op.labels() if x.axes[0] != 1), f"{op.node.op_type} {LINES_MEET}")
    yield Out(0, led)


@rule("GroupNormalization")
def group_norm(op: Op) -> Facts:
    """A statistic a group of channels: whole groups can go, and `num_groups` follows."""
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} {LINES_MEET}")
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")
    channels = op.atoms(1)
    rows = channels.reshape(op.attr("num_groups"), -1)
    yield _as_one(rows)
    yield from _vectors(op, channels)
    yield from (Size(op.node, "num_groups", None, label) for label in on(1, rows[:, 0]))
    yield Out(0, on(1, channels))


def _vectors(op: Op, channels: Atoms) -> Facts:
    """The parameters, one number for each of these."""
    for label in on(0, channels):
        for index in range(1, len(op.node.inputs)):
            if op.constant(index):
                yield Param(index, label)
            else:
                yield Fixed(channels, f"{op.node.op_type} takes computed parameters")


def _as_one(rows: Atoms) -> Tie:
    """The positions of each row go together."""
    return Tie(np.broadcast_to(rows[:, :1], rows[:, 1:].shape), rows[:, 1:])
