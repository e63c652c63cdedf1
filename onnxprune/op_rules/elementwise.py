"""Rules of the operators that work position by position: their inputs' labels are tied, broadcast axes excepted."""

from collections.abc import Iterable, Sequence
from math import prod

from onnxprune.labels import Label, atoms_of, on
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule, sliced_along, without

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
    met: list[Label] = []
    for index in (i for i in given if not op.constant(i)):
        for label in op.labels(index):
            yield from _meet(op, label.moved(rank - len(op.shape(index))), met)
    met = met or _spread(op, given)
    for index in given:
        for label in met:
            yield from joined(op, index, label)
    yield Out(0, tuple(x for x in met if all(shape[a] == d for a, d in zip(x.axes, x.atoms.shape, strict=True))))


def _spread(op: Op, given: Sequence[int]) -> list[Label]:
    """A computed number times a constant vector (a scale that is known at run time) has a position for each channel.

    They are new, and go with what the vector meets.
    """
    long = [axis for axis, width in enumerate(op.out_shape()) if width > 1]
    single = [i for i in given if not op.constant(i) and prod(op.shape(i)) == 1]
    if len(long) != 1 or not single or any(not op.constant(i) for i in given if i not in single):
        return []
    return [Label((long[0],), op.fresh(op.out_shape()[long[0]]))]


def _meet(op: Op, label: Label, met: list[Label]) -> Facts:
    """Enter a label on the output's axes; tie it to one that lies there already, or their lines where one is wider."""
    out = op.out_shape()
    if any(out[axis] != width for axis, width in zip(label.axes, label.atoms.shape, strict=True)):
        yield Fixed(label.atoms, f"{op.node.op_type} broadcasts its single position")
        return
    others = [other for other in met if set(other.axes) & set(label.axes)]
    if not others:
        met.append(label)
    for other in others:
        wide, narrow = (label, other) if len(label.axes) > len(other.axes) else (other, label)
        if wide.axes == narrow.axes:
            yield Tie(wide.atoms, narrow.atoms)
        elif len(others) == 1 and len(narrow.axes) == 1:
            atoms, facts = line(op, wide, narrow.axes[0])
            yield from facts
            yield Tie(atoms, narrow.atoms)
            met[met.index(other)] = wide
        else:
            yield from fix((label, other), f"{op.node.op_type} joins channels that are split over different axes")


def joined(op: Op, index: int, label: Label) -> Facts:
    """What input `index` is along a label of the output: broadcast, labelled too, a constant, or an obstacle."""
    shape = op.shape(index)
    shift = len(op.out_shape()) - len(shape)
    spans = [axis for axis in label.axes if axis >= shift and shape[axis - shift] != 1]
    if not spans:
        return
    if op.constant(index):
        yield from sliced_along(op, index, label, spans, shift)
        return
    own = {axis + shift for mine in op.labels(index) for axis in mine.axes}
    bare = [axis for axis in spans if axis not in own]
    reason = f"{op.node.op_type} joins it with {op.input(index).name!r}, which has no prunable channels"
    yield from hold((label,), bare, reason)


@rule("BatchNormalization", "InstanceNormalization")
def channel_norm(op: Op) -> Facts:
    """One scale, shift and statistic a channel, and no channel sees another."""
    others = set(range(len(op.shape()))) - {1}
    yield from hold(op.labels(), others, f"{op.node.op_type} takes its mean and variance over it")
    channels = atoms_of(without(op.labels(), others), 1, op.shape()[1])
    for label in on(0, channels):
        for index in range(1, len(op.node.inputs)):
            if op.constant(index):
                yield Param(index, label)
            else:
                yield Fixed(channels, f"{op.node.op_type} takes computed parameters")
    yield Out(0, tuple(label for label in op.labels() if 1 in label.axes))
