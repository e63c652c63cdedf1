"""Rules of the operators that rename axes: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Expand, Tile."""

import numpy as np

from onnxprune.labels import Label, Labels, reshaped, transposed
from onnxprune.op_rules.facts import Facts, Fixed, Follow, Out
from onnxprune.op_rules.fill import own, repeated
from onnxprune.op_rules.registry import Op, fix, follows, labelled_axis, rule


def _carried(op: Op) -> tuple[Labels, Labels]:
    return reshaped(op.labels(), op.shape(), op.out_shape())


@rule("ExpandDims", domain="com.microsoft")
@rule("Flatten", "Squeeze", "Unsqueeze")
def rename(op: Op) -> Facts:
    """A row-major reshape whose sizes follow by themselves."""
    labels, lost = _carried(op)
    yield from fix(lost, f"{op.node.op_type} merges or drops its axis")
    yield Out(0, labels)


@rule("Reshape")
def reshape(op: Op) -> Facts:
    """A row-major reshape; a target size that holds channels is rewritten, −1 and copied sizes follow."""
    labels, lost = _carried(op)
    yield from fix(lost, "Reshape merges or drops its axis")
    for label in labels:
        yield from target_sizes(op, label)
    yield Out(0, labels)


def target_sizes(op: Op, label: Label) -> Facts:
    """What the target sizes of a Reshape are, along a label of its output."""
    for position, axis in enumerate(label.axes):
        if _copied(op, axis):
            yield from _copies(op, axis, label, position)
        else:
            yield from follows(op, 1, axis, label, position)


def _copied(op: Op, axis: int) -> bool:
    """Whether a Reshape takes the size of an axis from its input's axis of that number."""
    numbers = op.ints(1)
    return numbers is not None and numbers[axis] == 0 and not op.attr("allowzero", 0)


def _copies(op: Op, axis: int, label: Label, position: int) -> Facts:
    source = labelled_axis(op.labelled, (op.input(0), axis))
    if source is None:
        yield Fixed(label.atoms, f"Reshape copies its size from axis {axis}, which has no prunable channels")
    else:
        yield Follow(source, (label, position), label.atoms.shape[position], "Reshape copies the size of another axis")


@rule("Transpose")
def transpose(op: Op) -> Facts:
    """Axes change places."""
    perm = op.attr("perm") or list(range(len(op.shape())))[::-1]
    yield Out(0, transposed(op.labels(), [int(axis) for axis in perm]))


@rule("Expand")
def expand(op: Op) -> Facts:
    """Axes of size one are repeated; the others pass, and a size that holds channels is rewritten."""
    shift = len(op.out_shape()) - len(op.shape())
    skipped = len(op.out_shape()) - (op.trace.shape(op.input(1))[0])
    labels = (yield from own(op)) if op.constant(0) else op.labels()
    labels = tuple(label.moved(shift) for label in labels)
    widened = tuple(x for x in labels if any(op.out_shape()[a] != op.shape()[a - shift] for a in x.axes))
    yield from fix(widened, "Expand repeats its single position")
    kept = tuple(label for label in labels if label not in widened)
    for label in kept:
        for position, axis in enumerate(label.axes):
            if axis >= skipped:
                yield from follows(op, 1, axis - skipped, label, position)
    for axis in range(skipped, len(op.out_shape())):
        if axis < shift or op.shape()[axis - shift] == 1:
            kept += yield from repeated(op, 1, axis - skipped, axis, op.constant(0))
    yield Out(0, kept)


@rule("Tile")
def tile(op: Op) -> Facts:
    """A repeated axis carries its atoms again and again."""
    repeats = op.ints(1)
    if repeats is None:
        yield from fix(op.labels(), "Tile's repeats are computed at run time")
        return
    single = tuple(label for label in op.labels() if len(label.axes) == 1)
    yield from fix(tuple(x for x in op.labels() if x not in single), "Tile repeats channels that are split over axes")
    yield Out(0, tuple(Label(x.axes, np.tile(x.atoms, int(repeats[x.axes[0]]))) for x in single))


# fmt: off
CHANNEL_FREE = [
    "BlackmanWindow", "Constant", "HammingWindow", "HannWindow", "MelWeightMatrix", "RandomNormal",
    "RandomUniform", "Range", "Shape",
]
# fmt: on


@rule("Range", domain="com.microsoft")
@rule(*CHANNEL_FREE)
def channel_free(op: Op) -> Facts:
    """Sizes are read, or numbers made; no channel passes. Where the sizes go is looked at in `sizes.py`."""
    for index in op.outputs():
        yield Out(index, ())


@rule("EyeLike", "NonZero", "Size")
def counting(op: Op) -> Facts:
    """The result depends on how many positions there are."""
    yield from fix(op.labels(), f"{op.node.op_type} counts its positions")
    yield Out(0, ())
