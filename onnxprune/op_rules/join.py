"""Rules of the operators that cut and join along an axis: Concat, Split, Slice, Pad, Resize."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label, Labels, apart_from, on, touching
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Size, Tie
from onnxprune.op_rules.registry import Op, any_label, cut, fix, follows, rule


@rule("Concat")
def concat(op: Op) -> Facts:
    """Atoms follow each other along the axis; along the other axes all inputs go together."""
    yield from concatenated(op, range(len(op.node.inputs)))


def concatenated(op: Op, operands: Iterable[int]) -> Facts:
    """A Concat of these inputs; the others are settings."""
    axis = op.attr("axis", 0) % len(op.out_shape())
    indices = [i for i in operands if op.has(i)]
    joined = np.concatenate([op.atoms(axis, i) for i in indices])
    straddling = tuple(x for i in indices for x in touching(op.labels(i), [axis]) if len(x.axes) > 1)
    factored = _joined_factored(op, indices, axis, straddling[0].axes) if straddling else ()
    if not factored:
        yield from fix(straddling, "Concat joins channels that are split over axes")
    across: dict[tuple[int, ...], Label] = {}
    for index in indices:
        for label in apart_from(op.labels(index), [axis, *(a for x in factored for a in x.axes)]):
            across.setdefault(label.axes, label)
    for label in across.values():
        yield from _tied_across(op, indices, label)
    yield Out(0, (*(factored or on(axis, joined)), *across.values()))


def _joined_factored(op: Op, indices: list[int], axis: int, axes: tuple[int, ...]) -> Labels:
    """Channels split over `axes`, one behind the other along one of them; none where an input has others there."""
    parts = []
    for index in indices:
        here = touching(op.labels(index), axes)
        if len(here) != 1 or not set(here[0].axes) <= set(axes):
            return ()
        spread = here[0].atoms.reshape([op.shape(index)[a] if a in here[0].axes else 1 for a in axes])
        parts.append(np.broadcast_to(spread, [op.shape(index)[a] for a in axes]))
    return (Label(axes, np.concatenate(parts, axes.index(axis))),)


def _tied_across(op: Op, indices: list[int], label: Label) -> Facts:
    for index in indices:
        mine = [x for x in op.labels(index) if x.axes == label.axes]
        if op.constant(index):
            yield Param(index, label)
        elif mine:
            yield Tie(mine[0].atoms, label.atoms)
        else:
            yield Fixed(label.atoms, f"Concat joins it with {op.input(index).name!r}, which has no prunable channels")


@rule("Split")
def split(op: Op) -> Facts:
    """Each output takes its piece of the atoms, and the sizes follow."""
    axis = op.attr("axis", 0) % len(op.shape())
    own, others = touching(op.labels(), [axis]), apart_from(op.labels(), [axis])
    sizes = tuple(op.out_shape(i)[axis] for i in range(len(op.node.outputs)))
    bounds = np.cumsum((0, *sizes))
    for index, (start, end) in enumerate(pairwise(bounds)):
        parts = tuple(cut(label, axis, slice(start, end)) for label in own)
        parts = tuple(part for part in parts if np.any(part.atoms != WHOLE))
        yield Out(index, (*parts, *others))
        for part in parts:
            yield from _split_size(op, index, part, part.axes.index(axis), sizes)


def _split_size(op: Op, element: int, label: Label, axis: int, sizes: tuple[int, ...]) -> Facts:
    if op.has(1):
        yield from follows(op, 1, element, label, axis)
    else:
        yield Size(op.node, 1 if op.opset >= 13 else "split", element, label, axis, current=sizes)


@rule("Slice")
def slice_(op: Op) -> Facts:
    """Atoms are cut like the positions; the bounds move down by what goes below them."""
    bounds = _bounds(op)
    if bounds is None:
        yield from fix(op.labels(), "Slice's bounds are computed at run time")
        return
    labels: list[Label] = []
    for label in op.labels():
        here = [(element, bound) for element, bound in enumerate(bounds) if bound[0] in label.axes]
        if any(step != 1 for _, (_, _, _, step) in here):
            yield Fixed(label.atoms, "Slice takes every n-th of its positions")
            continue
        for element, (axis, start, end, _) in here:
            yield from _moved_bounds(op, element, label, label.axes.index(axis))
            label = cut(label, axis, slice(start, end))
        if np.any(label.atoms != WHOLE):
            labels.append(label)
    yield Out(0, tuple(labels))


Bound = tuple[int, int, int, int]


def _bounds(op: Op) -> list[Bound] | None:
    """(axis, start, end, step) of each sliced axis; None where they are not known."""
    rank = len(op.shape())
    if not op.has(1):
        starts, ends = op.attr("starts"), op.attr("ends")
        axes = op.attr("axes", range(len(starts)))
        return [(a % rank, s, e, 1) for a, s, e in zip(axes, starts, ends, strict=True)]
    given = [op.ints(i) for i in (1, 2, 3, 4) if op.has(i)]
    columns = [numbers.tolist() for numbers in given if numbers is not None]
    if len(columns) < len(given):
        return None
    count = len(columns[0])
    axes = columns[2] if op.has(3) else range(count)
    steps = columns[-1] if op.has(4) else [1] * count
    return [(a % rank, s, e, t) for a, s, e, t in zip(axes, columns[0], columns[1], steps, strict=True)]


def _moved_bounds(op: Op, element: int, label: Label, axis: int) -> Facts:
    """A bound counts positions along one of a label's axes: its new value counts those before it that stay."""
    width = label.atoms.shape[axis]
    for index, name in ((1, "starts"), (2, "ends")):
        numbers = op.ints(index) if op.has(1) else np.asarray(op.attr(name))
        assert numbers is not None
        bound = int(numbers[element])
        if bound == 0 or (not -width < bound < width and _constant(op, index)):
            continue  # a bound at or past an end stays there
        before = max(0, min(width, bound if bound > 0 else width + bound))
        if op.has(1):
            yield from follows(op, index, element, label, axis, before)
        else:
            yield Size(op.node, name, element, label, axis, before)


def _constant(op: Op, index: int) -> bool:
    return not op.has(index) or op.constant(index)


@rule("Pad", domain="com.microsoft")
@rule("Pad")
def pad(op: Op) -> Facts:
    """Padding along a channel axis adds positions that never go."""
    pads = np.asarray(op.attr("pads")) if op.attr("pads") is not None else op.ints(1)
    if pads is None or (op.has(3) and op.ints(3) is None):
        yield from fix(op.labels(), "Pad's widths are computed at run time")
        return
    rank = len(op.shape())
    axes = [int(a) % rank for a in op.ints(3)] if op.has(3) else list(range(rank))  # type: ignore[union-attr]
    amount = {axis: (int(pads[i]), int(pads[i + len(axes)])) for i, axis in enumerate(axes)}
    labels: list[Label] = []
    for label in op.labels():
        touched = [axis for axis in label.axes if amount.get(axis, (0, 0)) != (0, 0)]
        if not touched:
            labels.append(label)
        elif len(label.axes) > 1 or min(amount[touched[0]]) < 0 or op.attr("mode", "constant") != "constant":
            yield Fixed(label.atoms, "Pad repeats or cuts its positions")
        else:
            labels += on(touched[0], _padded(label.atoms, *amount[touched[0]]))
    yield Out(0, tuple(labels))


def _padded(atoms: Atoms, before: int, after: int) -> Atoms:
    return np.pad(atoms, (before, after), constant_values=WHOLE)


@rule("Resize", "Upsample")
def resize(op: Op) -> Facts:
    """Axes that keep their size pass; the channel size among the target sizes is rewritten."""
    changed = [axis for axis, (a, b) in enumerate(zip(op.shape(), op.out_shape(), strict=True)) if a != b]
    yield from fix(touching(op.labels(), changed), f"{op.node.op_type} interpolates along its axis")
    labels: Labels = apart_from(op.labels(), changed)
    axes = [int(a) for a in op.attr("axes") or range(len(op.shape()))]
    if op.has(3) and any_label(labels):
        for label in labels:
            for position, axis in enumerate(label.axes):
                if axis in axes:
                    yield from follows(op, 3, axes.index(axis), label, position)
    yield Out(0, labels)
