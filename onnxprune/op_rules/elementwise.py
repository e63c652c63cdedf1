"""Rules of the operators that work position by position: their inputs' labels are tied, broadcast axes excepted."""

import numpy as np

from onnxprune.labels import Label, atoms_of, on
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule, without

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
    shape, rank = op.out_shape(), len(op.out_shape())
    met: list[Label] = []
    for index in op.activations():
        for label in op.labels(index):
            yield from _meet(op, label.moved(rank - len(op.shape(index))), met)
    for index in (i for i in range(len(op.node.inputs)) if op.has(i)):
        for label in met:
            yield from _join(op, index, label)
    yield Out(0, tuple(x for x in met if all(shape[a] == d for a, d in zip(x.axes, x.atoms.shape, strict=True))))


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


def _join(op: Op, index: int, label: Label) -> Facts:
    """What input `index` is along a label of the output: broadcast, labelled too, a constant, or an obstacle."""
    shape = op.shape(index)
    shift = len(op.out_shape()) - len(shape)
    spans = [axis for axis in label.axes if axis >= shift and shape[axis - shift] != 1]
    if not spans:
        return
    if op.constant(index):
        yield from _param(op, index, label, spans, shift)
        return
    own = {axis + shift for mine in op.labels(index) for axis in mine.axes}
    bare = [axis for axis in spans if axis not in own]
    reason = f"{op.node.op_type} joins it with {op.input(index).name!r}, which has no prunable channels"
    yield from hold((label,), bare, reason)


def _param(op: Op, index: int, label: Label, spans: list[int], shift: int) -> Facts:
    """A constant along some axes of a label is sliced along those."""
    varying = tuple(slice(None) if axis in spans else 0 for axis in label.axes)
    own = tuple(axis - shift for axis in spans)
    if len(spans) == len(label.axes) or _same_across(label.atoms, varying):
        yield Param(index, Label(own, label.atoms[varying]))
    elif len(spans) == 1:
        atoms, facts = line(op, label, spans[0])
        yield from facts
        yield Param(index, Label(own, atoms))
    else:
        yield Fixed(label.atoms, f"{op.node.op_type} broadcasts a constant over part of its axes")


def _same_across(atoms: np.ndarray, index: tuple[slice | int, ...]) -> bool:
    """Whether the atoms repeat over the axes that `index` pins."""
    pinned = tuple(slice(0, 1) if isinstance(i, int) else i for i in index)
    return bool(np.array_equal(atoms, np.broadcast_to(atoms[pinned], atoms.shape)))


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
