"""Rules of the products of matrices: by a weight, by a stack of constant matrices, and of two activations."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.labels import Atoms, Label, Labels, Shape, apart_from, atoms_of, on, touching, transposed
from onnxprune.op_rules.facts import Fact, Facts, Fixed, Kind, Lines, Out, Param, Product, Summed, Tie
from onnxprune.op_rules.linear import Places, dense, per_output
from onnxprune.op_rules.registry import Op, fix, hold, line, rule, stays_whole, without


@dataclass(frozen=True, eq=False)
class Side:
    """One operand of a product; axes are counted as in the result, where `inner` is summed and `kept` is not.

    `turned`: its last two axes change places first. For quanta, input `zero` holds what stands for zero.
    """

    op: Op
    index: int
    inner: int
    kept: int
    turned: bool = False
    zero: int | None = None

    @property
    def constant(self) -> bool:
        """Whether it is a constant of the model."""
        return self.op.constant(self.index)

    @property
    def shape(self) -> Shape:
        """Its sizes along the axes of the result, 1 for those that it lacks."""
        own = [self.op.shape(self.index)[axis] for axis in self._order]
        return (*[1] * self._shift, *own)

    @property
    def labels(self) -> Labels:
        """Its labels on the axes of the result."""
        return tuple(x.moved(self._shift) for x in transposed(self.op.labels(self.index), self._order))

    def own(self, label: Label) -> Label:
        """A label on the axes of the result, on its own."""
        return transposed((label.moved(-self._shift),), self._order)[0]

    def stack(self) -> int | None:
        """The batch axis along which its matrices differ, the longest; None for a single matrix."""
        batch = range(len(self.shape) - 2)
        longest = max(batch, key=self.shape.__getitem__, default=None)
        return longest if longest is not None and self.shape[longest] > 1 else None

    @property
    def _shift(self) -> int:
        return max(self.inner, self.kept) + 1 - len(self.op.shape(self.index))

    @property
    def _order(self) -> list[int]:
        *batch, last, end = range(len(self.op.shape(self.index)))
        return [*batch, end, last] if self.turned else [*batch, last, end]


Sides = tuple[Side, Side]


def sides(
    op: Op,
    operands: tuple[int, int] = (0, 1),
    turned: tuple[bool, bool] = (False, False),
    zeros: tuple[int | None, int | None] = (None, None),
) -> Sides:
    """The two operands of a product, of two axes or more each."""
    rank = len(op.out_shape())
    left = Side(op, operands[0], rank - 1, rank - 2, turned[0], zeros[0])
    return left, Side(op, operands[1], rank - 2, rank - 1, turned[1], zeros[1])


@rule("MatMul")
def matmul(op: Op) -> Facts:
    """A weight on the right makes new columns, one on the left new rows; two activations tie what they share."""
    yield from matrices(op, (False, False))


def matrices(op: Op, turned: tuple[bool, bool]) -> Facts:
    """A product of the first two inputs, the last two axes of each in place or turned."""
    if min(len(op.shape(0)), len(op.shape(1))) < 2:
        yield from fix((*op.labels(0), *op.labels(1)), f"{op.node.op_type} with a vector")
        return
    both = sides(op, turned=turned)
    weight = 1 if op.constant(1) else 0
    if op.constant(weight) and _is_layer(both[weight], both[1 - weight]):
        yield from weighted(op, Places(weight, None), 1 - weight, turned[weight])
    else:
        yield from product(both)


def _is_layer(weight: Side, x: Side) -> bool:
    """Whether a product by a constant is a layer of one matrix; a matrix on the left stands as it is."""
    straddling = any(x.inner in label.axes and len(label.axes) > 1 for label in x.labels)
    plain = not x.turned and not (weight.turned and weight.index == 0)
    return len(weight.op.shape(weight.index)) == 2 and plain and not straddling


def weighted(op: Op, places: Places, x: int, turned: bool = False) -> Facts:
    """A product by a constant matrix, turned or not; `x` is the other operand's place, left of it or right of it."""
    weight, rank = places.weight, len(op.shape(x))
    if len(op.shape(weight)) != 2 or rank < 2:
        yield from fix(op.labels(x), f"{op.node.op_type} by a stack of matrices, or of a vector")
        return
    kind: Kind = "left_matmul" if x > weight else "gemm" if turned else "matmul"
    reads, summed = (rank - 1, int(turned)) if x < weight else (rank - 2, 1)
    straddling = tuple(label for label in touching(op.labels(x), [reads]) if len(label.axes) > 1)
    yield from fix(straddling, "its channels are split over axes")
    inner = atoms_of(op.labels(x), reads, op.shape(x)[reads])
    outer = op.fresh(op.out_shape()[reads])
    yield Out(0, (*apart_from(op.labels(x), [reads]), *on(reads, outer)))
    yield Param(weight, Label((summed,), inner), True, places.nothing)
    yield Param(weight, Label((1 - summed,), outer))
    yield from per_output(op, places, outer)
    yield dense(op, places, kind, x, inner, outer)


Batch = dict[int, list[Atoms]]
"""What stands for the positions of each batch axis, once for each label that lies there."""


def product(both: Sides) -> Facts:
    """Both sides lose the summed positions together; rows of A and columns of B pass through, and batch axes agree.

    What lies on a batch axis alone afterwards (the head of a score) stands for all that lay there before. A constant
    has no labels: it is cut along those of the other side, and what it alone has makes new ones.
    """
    op, (left, right) = both[0].op, both
    batch: Batch = {}
    passing: list[Label] = []
    first = yield from _entered(left, right, batch, passing)
    summed = (first, (yield from _entered(right, left, batch, passing)))
    made: list[Label] = []
    for side, other, label in ((left, right, summed[1]), (right, left, summed[0])):
        if side.constant:
            yield from _contracted(side, label)
            made.append((yield from _made(side, other, batch)))
    if not made:
        yield from _tied(both, summed)
    for together in batch.values():
        yield from (Tie(together[0], atoms) for atoms in together[1:])
    found = [label for label in (*summed, *made, *passing) if label is not None]
    largest = max(found, key=lambda label: label.atoms.size, default=None)
    yield Product(op.node, prod(op.out_shape()) * left.shape[-1], largest)
    yield Out(0, (yield from _result(op, [*made, *passing], batch)))


def _entered(side: Side, other: Side, batch: Batch, passing: list[Label]) -> Generator[Fact, None, Label | None]:
    """Sort the labels of one side: the one that is summed over is handed back."""
    rank, summed = len(side.shape), None
    for label in side.labels:
        plain, ties = _one_batch_axis(label, rank)
        yield from ties
        matrix = [axis for axis in plain.axes if axis >= rank - 2]
        if len(matrix) > 1:
            yield Fixed(label.atoms, "it lies on both axes of a matrix")
            continue
        for axis in (a for a in plain.axes if a < rank - 2):
            atoms, facts = line(side.op, plain, axis)
            yield from facts
            batch.setdefault(axis, []).append(atoms)
        if matrix == [side.inner]:
            summed = plain
        elif matrix == [side.kept]:
            passing.append(plain)
        yield from _batch_on_the_other_side(other, plain)
    return summed


def _one_batch_axis(label: Label, rank: int) -> tuple[Label, list[Tie]]:
    """Hold a label on all of its batch axes but the longest."""
    batch = [axis for axis in label.axes if axis < rank - 2]
    held = sorted(batch, key=lambda axis: label.atoms.shape[label.axes.index(axis)])[:-1]
    ties = [stays_whole(label, axis) for axis in held]
    return without((label,), held)[0], ties


def _batch_on_the_other_side(other: Side, label: Label) -> Facts:
    """A batch axis goes from both sides or is broadcast."""
    cut = {axis for mine in other.labels for axis in mine.axes} | ({other.stack()} if other.constant else set())
    reason = f"{other.op.node.op_type} joins it with {other.op.input(other.index).name!r}, "
    bare = [a for a in label.axes if a < len(other.shape) - 2 and other.shape[a] != 1 and a not in cut]
    yield from hold((label,), bare, f"{reason}which has no prunable channels")


def _contracted(side: Side, label: Label | None) -> Facts:
    """A constant is cut along what the other side loses of the summed positions, in each of its matrices."""
    if label is None:
        return
    batch = label.axes[:-1]
    if all(side.shape[axis] > 1 for axis in batch):
        yield Param(side.index, side.own(Label((*batch, side.inner), label.atoms)), contracted=True)
    else:
        atoms, facts = line(side.op, label, label.axes[-1])
        yield from facts
        yield Param(side.index, side.own(Label((side.inner,), atoms)), contracted=True)


def _made(side: Side, other: Side, batch: Batch) -> Generator[Fact, None, Label]:
    """New atoms for what a constant alone has: its rows or columns, of each matrix of a stack."""
    stack = side.stack()
    axes = (side.kept,) if stack is None else (stack, side.kept)
    dims = [side.shape[axis] for axis in axes]
    label = Label(axes, side.op.fresh(prod(dims)).reshape(dims))
    yield Param(side.index, side.own(label))
    if stack in batch:
        yield Lines(label, 0, batch[stack][0])
    elif stack is not None and other.shape[stack] > 1:
        yield from hold(
            (label,), [stack], f"{side.op.node.op_type} joins it with a tensor that has no prunable channels"
        )
    return label


def _tied(both: Sides, summed: Sequence[Label | None]) -> Facts:
    """The summed positions of both sides go together, in all lines of a batch axis that one side alone has."""
    for side, label in zip(both, summed, strict=True):
        if label is not None:
            yield Summed(side.index, side.own(label), side.zero)
    first, second = summed
    if first is not None and second is not None:
        if len(first.axes) == len(second.axes) > 1 and first.axes[0] != second.axes[0]:
            yield from fix((first, second), "MatMul joins channels that are split over different axes")
        else:
            yield Tie(*np.broadcast_arrays(first.atoms, second.atoms))
    for label in (first or second,) if first is None or second is None else ():
        if label is not None:
            yield from hold((label,), label.axes[-1:], "MatMul sums it against all positions")


def _result(op: Op, passing: Collection[Label], batch: Batch) -> Generator[Fact, None, Labels]:
    """The labels of the result: what passes, whole if its batch axis is free yet, and what lies on batch axes alone."""
    found: list[Label] = []
    covered: set[int] = set()
    for label in passing:
        if covered & set(label.axes):
            atoms, facts = line(op, label, label.axes[-1])
            yield from facts
            label = Label(label.axes[-1:], atoms)
        found.append(label)
        covered |= set(label.axes)
    return (*found, *(Label((axis,), atoms[0]) for axis, atoms in batch.items() if axis not in covered))
