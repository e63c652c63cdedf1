"""Rules of the operators that work position by position: their inputs' labels are tied, broadcast axes excepted."""

from collections.abc import Collection, Generator, Iterable, Mapping
from math import prod

from onnxprune.labels import Label, Labels, apart_from
from onnxprune.op_rules.facts import Fact, Facts, Fixed, Out, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule, sliced_along

# fmt: off
UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
]
BROADCAST = [
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub",
    "Sum", "SwiGLU", "Where", "Xor",
]
FUSED_UNARY = ["Gelu", "QuickGelu", "ScaledSiLU"]
FUSED_BROADCAST = ["BiasAdd", "BiasGelu", "FastGelu", "GatedAdd"]
# fmt: on


@rule(*FUSED_UNARY, domain="com.microsoft")
@rule(*UNARY)
def unary(op: Op) -> Facts:
    """The first input's labels pass; other inputs are settings."""
    for index in op.outputs():
        yield Out(index, op.labels())


@rule(*FUSED_BROADCAST, domain="com.microsoft")
@rule(*BROADCAST)
def broadcast(op: Op) -> Facts:
    """Labels of all inputs meet on the output's axes, aligned at the right; constants are sliced along."""
    yield Out(0, (yield from aligned(op, range(len(op.node.inputs)))))


def aligned(op: Op, operands: Iterable[int]) -> Generator[Fact, None, Labels]:
    """The labels of the output, where these inputs are aligned at the right; the others are settings."""
    rank = len(op.out_shape())
    return (yield from together(op, {i: rank - len(op.shape(i)) for i in operands if op.has(i)}))


def together(op: Op, shifts: Mapping[int, int], apart: Collection[int] = ()) -> Generator[Fact, None, Labels]:
    """The labels of the first output, where these inputs meet position by position.

    Axis a of input i lies on axis a + shifts[i] of the output; the output's axes `apart` are none of its business.
    """
    shape = op.out_shape()
    met: list[Label] = []
    for index, shift in shifts.items():
        for label in apart_from(tuple(label.moved(shift) for label in op.labels(index)), apart):
            yield from _meet(op, label, met)
    met = met or _spread(op, shifts)
    for index, shift in shifts.items():
        for label in met:
            yield from joined(op, index, label, shift)
    return tuple(x for x in met if all(shape[a] == d for a, d in zip(x.axes, x.atoms.shape, strict=True)))


def _spread(op: Op, given: Collection[int]) -> list[Label]:
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


def joined(op: Op, index: int, label: Label, shift: int) -> Facts:
    """What input `index` is along a label of the output: broadcast, labelled too, a constant, or an obstacle."""
    shape = op.shape(index)
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
