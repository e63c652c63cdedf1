"""Rules of the operators that work along some axes and leave the others alone: CumSum, TopK, Trilu, DFT and so on."""

from collections.abc import Callable, Iterable

from onnxprune.op_rules.facts import Facts, Out
from onnxprune.op_rules.registry import Op, fix, hold, rule, without

Axes = Iterable[int] | None


def _attribute(name: str, default: int | None = None) -> Callable[[Op], Axes]:
    """The axis that an attribute names; all where it is not given and has no default."""

    def axes(op: Op) -> Axes:
        axis = op.attr(name, default)
        return range(len(op.shape())) if axis is None else [axis]

    return axes


def _operand(index: int) -> Callable[[Op], Axes]:
    return lambda op: op.ints(index)


def _transformed(op: Op) -> Axes:
    """A DFT's axis, an attribute before opset 20, and the last one, which holds real and imaginary parts."""
    axis = op.ints(2) if op.has(2) else [op.attr("axis", 1 if op.opset < 20 else -2)]
    return None if axis is None else [*axis, -1]


ALONG: dict[str, tuple[Callable[[Op], Axes], str]] = {
    "Compress": (_attribute("axis"), "drops positions of its axis"),
    "CumProd": (_operand(1), "multiplies along its axis"),
    "CumSum": (_operand(1), "adds up along its axis"),
    "DFT": (_transformed, "transforms its axis"),
    "Det": (lambda _: [-2, -1], "takes determinants over its axis"),
    "LRN": (lambda _: [1], "weighs its channels against their neighbours"),
    "MeanVarianceNormalization": (lambda op: op.attr("axes", [0, 2, 3]), "takes its mean and variance over it"),
    "ReverseSequence": (lambda op: [op.attr("time_axis", 0), op.attr("batch_axis", 1)], "reverses along its axis"),
    "TopK": (_attribute("axis", -1), "ranks its positions"),
    "Trilu": (lambda _: [-2, -1], "cuts a triangle from its axis"),
}
FUSED = {"Inverse": "Det", "Trilu": "Trilu"}


@rule(*ALONG)
def along(op: Op) -> Facts:
    """The axes that the operator works along stay whole, the others pass."""
    yield from _along(op, *ALONG[op.node.op_type])


@rule(*FUSED, domain="com.microsoft")
def fused_along(op: Op) -> Facts:
    """The same for onnxruntime's own operators."""
    yield from _along(op, *ALONG[FUSED[op.node.op_type]])


def _along(op: Op, find: Callable[[Op], Axes], what: str) -> Facts:
    yield from _settings(op)
    found = find(op)
    if found is None:
        yield from fix(op.labels(), f"the axis of {op.node.op_type} is computed at run time")
        return
    axes = [int(axis) % len(op.shape()) for axis in found]
    yield from hold(op.labels(), axes, f"{op.node.op_type} {what}")
    for index in op.outputs():
        same = op.out_shape(index) == op.shape()
        yield Out(index, op.labels() if same else without(op.labels(), axes))


def _settings(op: Op) -> Facts:
    """Inputs behind the first tell what to do: no position of them can go."""
    for index in range(1, len(op.node.inputs)):
        yield from fix(op.labels(index), f"{op.node.op_type} is told by it what to do")


@rule("OneHot")
def one_hot(op: Op) -> Facts:
    """A new axis, of which no position can go; those of the indices pass."""
    yield from _settings(op)
    axis = op.attr("axis", -1) % len(op.out_shape())
    straddling = tuple(label for label in op.labels() if label.axes[0] < axis <= label.axes[-1])
    yield from fix(straddling, "OneHot puts an axis between its axes")
    whole = tuple(label for label in op.labels() if label not in straddling)
    yield Out(0, tuple(label.moved(1) if label.axes[0] >= axis else label for label in whole))


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> Facts:
    """Axes that keep their size pass, unless their size is one of those asked for."""
    named = [int(a) % len(op.shape()) for a in op.attr("axes") or range(len(op.shape()))]
    yield from hold(op.labels(), named, "CenterCropPad sets the size of its axis")
    yield Out(0, without(op.labels(), named))
