"""Rules of the layers that multiply by a weight: Conv, ConvTranspose, Gemm, MatMul."""

from dataclasses import replace
from math import prod

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label, Shape, apart_from, atoms_of, on, touching
from onnxprune.op_rules.facts import Balanced, Facts, Fixed, Kind, Linear, Out, Param, Product, Size, Summed, Tie
from onnxprune.op_rules.registry import Op, fix, rule, stays_whole


def _conv_input(op: Op) -> Facts:
    """A convolution slides over every axis but the channels', so no other axis can lose positions."""
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} slides over its axis")
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")


def _depthwise(op: Op, inner: Atoms, groups: int) -> Facts:
    """Each input channel makes its own outputs: they go together, and `group` follows."""
    outer = np.repeat(inner, op.out_shape()[1] // groups)
    yield Out(0, on(1, outer))
    first = inner if op.node.op_type == "ConvTranspose" else outer
    for label in on(0, first):
        yield Param(1, label)
    for label in on(0, outer):
        if op.has(2):
            yield Param(2, label)
    for label in on(0, inner):
        yield Size(op.node, "group", None, label)
    yield _linear(op, inner.reshape(groups, 1), outer.reshape(groups, -1), refit=False)


def _linear(op: Op, features: Atoms, outputs: Atoms, refit: bool = True) -> Linear:
    conv = op.node.op_type != "ConvTranspose"
    positions = op.out_shape() if conv else op.shape()
    taps = prod(op.shape(1)[2:])
    return Linear(
        op.node,
        "conv" if conv else "conv_transpose",
        op.input(0),
        op.input(1),
        op.input(2) if op.has(2) else None,
        op.node.outputs[0],
        features.shape[0],
        np.repeat(features, taps, axis=1),
        outputs,
        positions[0] * prod(positions[2:]),
        refit,
    )


@rule("Conv", "ConvTranspose")
def convolution(op: Op) -> Facts:
    """Input channels are summed over, output channels are new; groups lose equally many."""
    if not op.constant(1) or (op.has(2) and not op.constant(2)):
        yield from fix(op.labels(0) + op.labels(1) + op.labels(2), f"the weight of {op.node.op_type} is computed")
        return
    yield from _conv_input(op)
    groups, inner = op.attr("group", 1), op.atoms(1)
    if groups > 1 and groups == inner.size:
        yield from _depthwise(op, inner, groups)
        return
    outer = op.fresh(op.out_shape()[1])
    yield Out(0, on(1, outer))
    if op.has(2):
        yield Param(2, Label((0,), outer))
    rows, columns = inner.reshape(groups, -1), outer.reshape(groups, -1)
    conv = op.node.op_type != "ConvTranspose"
    (first, second), sums_second = ((columns, rows), True) if conv else ((rows, columns), False)
    yield Param(1, Label((0,), first.reshape(-1)), contracted=not sums_second)
    per_element = np.repeat(second, first.shape[1], axis=0)
    yield Param(1, Label((1,), second[0]) if groups == 1 else Label((0, 1), per_element), contracted=sums_second)
    if groups > 1:
        yield Balanced(rows, f"{op.node.op_type} reads {groups} groups of channels")
        yield Balanced(columns, f"{op.node.op_type} writes {groups} groups of channels")
    yield _linear(op, rows, columns)


@rule("DeformConv")
def deformable_convolution(op: Op) -> Facts:
    """A convolution whose windows are computed; every set of windows must read equally many channels."""
    bent = op.labels(2) + op.labels(4)
    if not op.constant(1) or (op.has(3) and not op.constant(3)) or op.attr("group", 1) > 1:
        yield from fix(
            op.labels(0) + op.labels(1) + op.labels(3) + bent, "DeformConv in groups, or by a computed weight"
        )
        return
    yield from _conv_input(op)
    yield from fix(bent, "DeformConv reads places from it")
    inner, outer = op.atoms(1), op.fresh(op.out_shape()[1])
    yield Out(0, on(1, outer))
    yield Param(1, Label((1,), inner), contracted=True)
    yield from (Param(index, Label((0,), outer)) for index in (1, 3) if op.has(index))
    if (windows := op.attr("offset_group", 1)) > 1:
        yield Balanced(inner.reshape(windows, -1), f"DeformConv reads through {windows} sets of windows")
    yield replace(_linear(op, inner[None], outer[None], refit=False), bias=None)


@rule("Gemm")
def gemm(op: Op) -> Facts:
    """A·B + C on matrices, A or B transposed or not."""
    if not op.constant(1) or (op.has(2) and not op.constant(2)):
        yield from fix(op.labels(0) + op.labels(1) + op.labels(2), "Gemm multiplies two computed matrices")
        return
    reads = 0 if op.attr("transA", 0) else 1
    reads_weight, writes_weight = (1, 0) if op.attr("transB", 0) else (0, 1)
    yield from fix(apart_from(op.labels(), [reads]), "Gemm's other axis is not a channel axis")
    inner, outer = op.atoms(reads), op.fresh(op.out_shape()[1])
    yield Out(0, on(1, outer))
    yield Param(1, Label((reads_weight,), inner), contracted=True)
    yield Param(1, Label((writes_weight,), outer))
    if op.has(2) and op.shape(2)[-1:] == (outer.size,):
        yield Param(2, Label((len(op.shape(2)) - 1,), outer))
    yield _dense(op, "gemm", 0, inner, outer)


def _dense(op: Op, kind: Kind, x: int, inner: Atoms, outer: Atoms) -> Linear:
    rows = prod(op.out_shape()) // outer.size
    bias = op.input(2) if op.has(2) else None
    values = op.input(x), op.input(1 - x), bias, op.node.outputs[0]
    return Linear(op.node, kind, *values, 1, inner[None], outer[None], rows, _refittable(op, kind))


def _refittable(op: Op, kind: Kind) -> bool:
    """Whether the layer is plainly X Wᵀ + b, with rows of X in its last axis."""
    plain = op.attr("alpha", 1.0) == 1.0 and op.attr("beta", 1.0) == 1.0 and not op.attr("transA", 0)
    return plain and kind != "left_matmul"


@rule("MatMul")
def matmul(op: Op) -> Facts:
    """A weight on the right makes new columns, one on the left new rows; two activations tie what they share."""
    if op.constant(0) or op.constant(1):
        yield from _weighted_matmul(op, 1 if op.constant(1) else 0)
    else:
        yield from _activation_matmul(op)


def _weighted_matmul(op: Op, weight: int) -> Facts:
    x, rank = 1 - weight, len(op.shape(1 - weight))
    if len(op.shape(weight)) != 2 or rank < 2:
        yield from fix(op.labels(x), "MatMul by a stack of matrices, or of a vector")
        return
    reads = rank - 1 if weight == 1 else rank - 2
    straddling = tuple(label for label in touching(op.labels(x), [reads]) if len(label.axes) > 1)
    yield from fix(straddling, "its channels are split over axes")
    inner = atoms_of(op.labels(x), reads, op.shape(x)[reads])
    outer = op.fresh(op.out_shape()[reads])
    yield Out(0, (*apart_from(op.labels(x), [reads]), *on(reads, outer)))
    yield Param(weight, Label((1 - weight,), inner), contracted=True)
    yield Param(weight, Label((weight,), outer))
    yield _dense(op, "matmul" if weight == 1 else "left_matmul", x, inner, outer)


def _activation_matmul(op: Op) -> Facts:
    """Both sides lose the summed positions together; rows of A and columns of B pass through.

    Channels that also lie on batch axes (heads) go from every head alike, so that no head is lost on one side only.
    """
    yield Product(op.node, prod(op.out_shape()) * op.shape(0)[-1])
    ranks = len(op.shape(0)), len(op.shape(1))
    if min(ranks) < 2:
        yield from fix(op.labels(0) + op.labels(1), "MatMul with a vector")
        return
    passing: list[Label] = []
    lines = []
    for side, (rank, summed, kept) in enumerate(((ranks[0], -1, -2), (ranks[1], -2, -1))):
        line = np.full(op.shape(side)[summed], WHOLE)
        for label in op.labels(side):
            matrix_axes = [axis for axis in label.axes if axis >= rank - 2]
            moved = label.moved(len(op.out_shape()) - rank)
            if len(matrix_axes) != 1 or not _spans_batch(moved, op.out_shape()):
                yield Fixed(label.atoms, "it lies on a batch axis of MatMul, or on both of a matrix")
                continue
            yield from (stays_whole(label, axis) for axis in label.axes if axis < rank - 2)
            if matrix_axes[0] == rank + summed:
                line = label.atoms.reshape(-1, label.atoms.shape[-1])[0]
                yield Summed(side, label)
            elif matrix_axes[0] == rank + kept:
                passing.append(moved)
        lines.append(line)
    yield Tie(*lines)
    yield Out(0, tuple(passing))


def _spans_batch(label: Label, out: Shape) -> bool:
    """Whether no batch axis of the label is broadcast."""
    pairs = zip(label.axes, label.atoms.shape, strict=True)
    return all(out[axis] == width for axis, width in pairs if axis < len(out) - 2)
