"""Rules of the operators that work position by position: their inputs' labels are tied, broadcast axes excepted."""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from onnxprune.labels import Label, Labels, on
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Tie
from onnxprune.op_rules.registry import Op, fix, rule

# fmt: off
UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
]
BROADCAST = [
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub",
    "Sum", "Where", "Xor",
]
# fmt: on


@rule(*UNARY)
def unary(op: Op) -> Facts:
    """The first input's labels pass; other inputs are settings."""
    for index in op.outputs():
        yield Out(index, op.labels())


@rule(*BROADCAST)
def broadcast(op: Op) -> Facts:
    """Labels of all inputs meet on the output's axes, aligned at the right; constants are sliced along."""
    yield from aligned(op, range(len(op.node.inputs)))


def aligned(op: Op, operands: Iterable[int]) -> Facts:
    """The labels of these inputs meet on the output's axes; the other inputs are settings."""
    shape, rank = op.out_shape(), len(op.out_shape())
    given = [index for index in operands if op.has(index)]
    met: dict[int, Label] = {}
    for index in (i for i in given if not op.constant(i)):
        for label in op.labels(index):
            yield from _meet(op, index, label.moved(rank - len(op.shape(index))), met)
    if not met:
        met.update(_spread(op, given))
    distinct: Labels = tuple({id(label): label for label in met.values()}.values())
    for index in given:
        for label in distinct:
            yield from joined(op, index, label, rank)
    yield Out(
        0,
        tuple(
            label
            for label in distinct
            if all(shape[a] == d for a, d in zip(label.axes, label.atoms.shape, strict=True))
        ),
    )


def _spread(op: Op, given: Sequence[int]) -> dict[int, Label]:
    """A computed number times a constant vector (a scale that is known at run time) has a position for each channel.

    They are new, and go with what the vector meets.
    """
    long = [axis for axis, width in enumerate(op.out_shape()) if width > 1]
    single = [i for i in given if not op.constant(i) and prod(op.shape(i)) == 1]
    if len(long) != 1 or not single or any(not op.constant(i) for i in given if i not in single):
        return {}
    return {long[0]: Label((long[0],), op.fresh(op.out_shape()[long[0]]))}


def _meet(op: Op, index: int, label: Label, met: dict[int, Label]) -> Facts:
    """Enter a label on the output's axes; where one lies there already, tie the two or fix both."""
    out = op.out_shape()
    if any(out[axis] != width for axis, width in zip(label.axes, label.atoms.shape, strict=True)):
        yield Fixed(label.atoms, f"{op.node.op_type} broadcasts its single position")
        return
    others = {id(met[a]): met[a] for a in label.axes if a in met}
    if not others:
        met.update(dict.fromkeys(label.axes, label))
    for other in others.values():
        if other.axes == label.axes:
            yield Tie(other.atoms, label.atoms)
        else:
            yield from fix((label, other), f"{op.node.op_type} joins channels that are split over different axes")


def joined(op: Op, index: int, label: Label, rank: int) -> Facts:
    """What input `index` is along a label of the output: broadcast, labelled too, a constant, or an obstacle."""
    shape = op.shape(index)
    shift = rank - len(shape)
    own = tuple(axis - shift for axis in label.axes)
    spans = [axis for axis in own if axis >= 0 and shape[axis] != 1]
    if not spans:
        return
    if op.constant(index):
        varying = tuple(slice(None) if axis in spans else 0 for axis in own)
        if len(spans) == len(own):
            yield Param(index, Label(own, label.atoms))
        elif _same_across(label.atoms, varying):
            yield Param(index, Label(tuple(spans), label.atoms[varying]))
        else:
            yield Fixed(label.atoms, f"{op.node.op_type} broadcasts a constant over part of its axes")
    elif not any(set(spans) & set(mine.axes) for mine in op.labels(index)):
        yield Fixed(
            label.atoms, f"{op.node.op_type} joins it with {op.input(index).name!r}, which has no prunable channels"
        )


def _same_across(atoms: np.ndarray, index: tuple[slice | int, ...]) -> bool:
    """Whether the atoms repeat over the axes that `index` pins."""
    pinned = tuple(slice(0, 1) if isinstance(i, int) else i for i in index)
    return bool(np.array_equal(atoms, np.broadcast_to(atoms[pinned], atoms.shape)))


@rule("BatchNormalization", "InstanceNormalization")
def channel_norm(op: Op) -> Facts:
    """One scale, shift and statistic a channel, and no channel sees another."""
    channels = op.atoms(1)
    for label in on(0, channels):
        for index in range(1, len(op.node.inputs)):
            if op.constant(index):
                yield Param(index, label)
            else:
                yield Fixed(channels, f"{op.node.op_type} takes computed parameters")
    straddling = tuple(label for label in op.labels() if label.axes != (1,))
    yield from fix(straddling, f"{op.node.op_type} works on axis 1")
    yield Out(0, on(1, channels))
