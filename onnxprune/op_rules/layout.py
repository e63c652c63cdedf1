"""Rules of the operators that rename axes: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Expand, Tile."""

import numpy as np
import numpy.typing as npt

from onnxprune.graph import SAMPLER
from onnxprune.labels import Atoms, Label, Labels, on, reshaped, transposed
from onnxprune.op_rules.facts import Facts, Fixed, Follow, Index, Out, Param
from onnxprune.op_rules.registry import Op, fix, follows, labelled_axis, rule, stays_whole


def _carried(op: Op) -> tuple[Labels, Labels]:
    return reshaped(op.labels(), op.shape(), op.out_shape())


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
    labels = tuple(label.moved(shift) for label in op.labels())
    widened = tuple(x for x in labels if any(op.out_shape()[a] != op.shape()[a - shift] for a in x.axes))
    yield from fix(widened, "Expand repeats its single position")
    kept = tuple(label for label in labels if label not in widened)
    for label in kept:
        for position, axis in enumerate(label.axes):
            if axis >= skipped:
                yield from follows(op, 1, axis - skipped, label, position)
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


@rule("Gather")
def gather(op: Op) -> Facts:
    """Positions are picked by constant indices, which are numbered anew; the other axes pass."""
    if op.constant(0):
        return
    if SAMPLER in op.node.meta:
        yield from _sampled(op)
        return
    axis, rank = op.attr("axis", 0) % len(op.shape()), len(op.shape(1))
    indices = op.ints(1) if op.array(1) is not None else None
    picked: list[Label] = []
    for label in op.labels():
        if axis in label.axes and indices is not None and rank < 2:
            yield from _picked(op, label, axis, indices)
            picked += _without(label, axis, int(indices[0])) if rank == 0 else [_at(label, axis, indices)]
        elif axis in label.axes or label.axes[0] < axis < label.axes[-1]:
            yield Fixed(label.atoms, "Gather picks positions that are not known, or between its axes")
        else:
            picked.append(label if label.axes[-1] < axis else label.moved(rank - 1))
    yield Out(0, tuple(picked))


def _sampled(op: Op) -> Facts:
    """A channel sampler drops channels for its reader alone: its input stays whole, its indices are cut."""
    yield from fix(op.labels(), "a channel sampler picks from it")
    fresh = op.fresh(op.shape()[1])
    yield Param(1, Label((0,), fresh))
    yield Out(0, on(1, fresh))


def _picked(op: Op, label: Label, axis: int, indices: npt.NDArray[np.int64]) -> Facts:
    if len(label.axes) > 1:
        yield stays_whole(label, axis)
        return
    yield Index(op.node, 1, label)
    if not op.shape(1):  # the picked position becomes the whole output, so it must stay
        yield Fixed(label.atoms[indices], "Gather picks one position")


def _at(label: Label, axis: int, indices: npt.NDArray[np.int64]) -> Label:
    atoms: Atoms = np.take(label.atoms, indices, axis=label.axes.index(axis))
    return Label(label.axes, atoms)


def _without(label: Label, axis: int, position: int) -> Labels:
    """A label after one position of an axis is picked and the axis is gone."""
    left = tuple(a - (a > axis) for a in label.axes if a != axis)
    return (Label(left, np.asarray(label.atoms.take(position, axis=label.axes.index(axis)))),) if left else ()


@rule("Shape", "ConstantOfShape", "Range")
def channel_free(op: Op) -> Facts:
    """Sizes are read, not channels: where they go is looked at in `sizes.py`."""
    for index in op.outputs():
        yield Out(index, ())


@rule("Size", "NonZero")
def counting(op: Op) -> Facts:
    """The result depends on how many positions there are."""
    yield from fix(op.labels(), f"{op.node.op_type} counts its positions")
    yield Out(0, ())
