"""Rules of the operators that work position by position: their inputs' labels are tied, broadcast axes excepted."""

from collections.abc import Collection, Generator, Mapping

import numpy as np

from onnxprune.labels import Label, Labels, apart_from
from onnxprune.op_rules.facts import Fact, Facts, Fixed, Out, Param, Tie
from onnxprune.op_rules.registry import Op, fix, rule

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
    rank = len(op.out_shape())
    shifts = {i: rank - len(op.shape(i)) for i in range(len(op.node.inputs)) if op.has(i)}
    yield Out(0, (yield from together(op, shifts)))


def together(op: Op, shifts: Mapping[int, int], apart: Collection[int] = ()) -> Generator[Fact, None, Labels]:
    """The labels of the first output, where these inputs meet position by position.

    Axis a of input i lies on axis a + shifts[i] of the output; the output's axes `apart` are none of its business.
    """
    shape = op.out_shape()
    met: dict[int, Label] = {}
    for index, shift in shifts.items():
        for label in apart_from(tuple(label.moved(shift) for label in op.labels(index)), apart):
            yield from _meet(op, label, met)
    distinct: Labels = tuple({id(label): label for label in met.values()}.values())
    for index, shift in shifts.items():
        for label in distinct:
            yield from _join(op, index, label, shift)
    return tuple(x for x in distinct if all(shape[a] == d for a, d in zip(x.axes, x.atoms.shape, strict=True)))


def _meet(op: Op, label: Label, met: dict[int, Label]) -> Facts:
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


def _join(op: Op, index: int, label: Label, shift: int) -> Facts:
    """What input `index` is along a label of the output: broadcast, labelled too, a constant, or an obstacle."""
    shape = op.shape(index)
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
