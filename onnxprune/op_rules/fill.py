"""Axes along which every position holds the same: any can go, if their number is known."""

from collections.abc import Generator

from onnxprune.labels import Label, Labels
from onnxprune.op_rules.facts import Fact, Facts, Out, Param, Settled
from onnxprune.op_rules.registry import Op, follows, labelled_axis, rule


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> Facts:
    """One value everywhere."""
    labels: Labels = ()
    for axis in range(len(op.out_shape())):
        labels += yield from repeated(op, 0, axis, axis)
    yield Out(0, labels)


def own(op: Op) -> Generator[Fact, None, Labels]:
    """New atoms on the axes of a constant that is read as an activation."""
    labels = tuple(Label((axis,), op.fresh(width)) for axis, width in enumerate(op.shape()) if width > 1)
    yield from (Param(0, label) for label in labels)
    return labels


def repeated(op: Op, index: int, element: int, axis: int, made: bool = True) -> Generator[Fact, None, Labels]:
    """The labels of an axis of equal positions whose size is element `element` of the integers at input `index`.

    A constant size makes new atoms (of a tensor that is `made` here, not of an activation that passes, whose repeated
    axis nobody wants cut); a size taken from a labelled axis takes its atoms too.
    """
    origin, width = op.trace.origin(op.input(index), element), op.out_shape()[axis]
    if origin is None or width < 2 or not (made or origin.leaves):
        return ()
    if not origin.leaves:
        label = Label((axis,), op.fresh(width))
        yield from follows(op, index, element, label)
        return (label,)
    source = labelled_axis(op.labelled, origin.leaves[0]) if origin.direct else None
    if source is None or source[0].atoms.shape != (width,):
        return ()
    yield Settled(index, element)
    return (Label((axis,), source[0].atoms),)
