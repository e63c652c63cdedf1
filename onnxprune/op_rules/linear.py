"""Rules of the layers that multiply by a weight: Conv, ConvTranspose, Gemm."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array
from onnxprune.labels import Atoms, Label, apart_from, on
from onnxprune.op_rules.facts import Balanced, Facts, Fixed, Kind, Linear, Out, Param, Size
from onnxprune.op_rules.registry import Op, fix, rule


@dataclass(frozen=True, eq=False)
class Places:
    """Which inputs of a layer are what; `vectors` hold a number for each output channel, or one for all.

    `nothing` and `decode` tell of a weight in quanta: see `Param` and `Linear`.
    """

    weight: int = 1
    bias: int | None = 2
    vectors: tuple[int, ...] = ()
    nothing: Array | None = None
    decode: Callable[[Array], Array] | None = None

    def computed(self, op: Op) -> bool:
        """Whether the weight or bias is computed from activations."""
        given = [self.weight] if self.bias is None or not op.has(self.bias) else [self.weight, self.bias]
        return not all(op.constant(index) for index in given)


PLAIN = Places()


def per_output(op: Op, places: Places, outer: Atoms) -> Facts:
    """What has a number for each output channel is cut along."""
    given = [places.bias] if places.bias is not None else []
    given += places.vectors if outer.size > 1 else ()
    for index in (i for i in given if op.has(i) and op.shape(i)[-1:] == (outer.size,)):
        for label in on(len(op.shape(index)) - 1, outer):
            if op.constant(index):
                yield Param(index, label)
            else:
                yield Fixed(outer, f"{op.node.op_type} takes computed scales")


def _conv_input(op: Op) -> Facts:
    """A convolution slides over every axis but the channels', so no other axis can lose positions."""
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} slides over its axis")
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")


def _depthwise(op: Op, places: Places, inner: Atoms, groups: int) -> Facts:
    """Each input channel makes its own outputs: they go together, and `group` follows."""
    outer = np.repeat(inner, op.out_shape()[1] // groups)
    yield Out(0, on(1, outer))
    first = inner if op.node.op_type == "ConvTranspose" else outer
    for label in on(0, first):
        yield Param(places.weight, label)
    yield from per_output(op, places, outer)
    for label in on(0, inner):
        yield Size(op.node, "group", None, label)
    yield _linear(op, places, inner.reshape(groups, 1), outer.reshape(groups, -1), refit=False)


def _linear(op: Op, places: Places, features: Atoms, outputs: Atoms, refit: bool = True) -> Linear:
    conv = op.node.op_type != "ConvTranspose"
    positions = op.out_shape() if conv else op.shape()
    kernel = op.shape(places.weight)[2:]
    return Linear(
        op.node,
        "conv" if conv else "conv_transpose",
        op.input(0),
        op.input(places.weight),
        _bias(op, places),
        op.node.outputs[0],
        features.shape[0],
        np.repeat(features, prod(kernel), axis=1),
        outputs,
        positions[0] * prod(positions[2:]),
        refit,
        places.decode,
        kernel,
    )


def _bias(op: Op, places: Places) -> ir.Value | None:
    return op.input(places.bias) if places.bias is not None and op.has(places.bias) else None


@rule("Conv", "ConvTranspose")
def convolution(op: Op) -> Facts:
    """Input channels are summed over, output channels are new; groups lose equally many."""
    yield from convolve(op, PLAIN)


def convolve(op: Op, places: Places) -> Facts:
    """A convolution whose inputs lie at these places."""
    if places.computed(op):
        labels = (label for index in range(len(op.node.inputs)) for label in op.labels(index))
        yield from fix(tuple(labels), f"the weight of {op.node.op_type} is computed")
        return
    yield from _conv_input(op)
    groups, inner = op.attr("group", 1), op.atoms(1)
    if groups > 1 and groups == inner.size:
        yield from _depthwise(op, places, inner, groups)
        return
    outer = op.fresh(op.out_shape()[1])
    yield Out(0, on(1, outer))
    yield from per_output(op, places, outer)
    rows, columns = inner.reshape(groups, -1), outer.reshape(groups, -1)
    conv = op.node.op_type != "ConvTranspose"
    (first, second), sums_second = ((columns, rows), True) if conv else ((rows, columns), False)
    yield Param(places.weight, Label((0,), first.reshape(-1)), not sums_second, places.nothing)
    per_element = np.repeat(second, first.shape[1], axis=0)
    label = Label((1,), second[0]) if groups == 1 else Label((0, 1), per_element)
    yield Param(places.weight, label, sums_second, places.nothing)
    if groups > 1:
        yield Balanced(rows, f"{op.node.op_type} reads {groups} groups of channels")
        yield Balanced(columns, f"{op.node.op_type} writes {groups} groups of channels")
    yield _linear(op, places, rows, columns)


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
    yield replace(_linear(op, PLAIN, inner[None], outer[None], refit=False), bias=None)


@rule("Gemm")
def gemm(op: Op) -> Facts:
    """A·B + C on matrices, A or B transposed or not."""
    yield from multiply(op, PLAIN)


def multiply(op: Op, places: Places) -> Facts:
    """A Gemm whose inputs lie at these places."""
    if places.computed(op):
        labels = (label for index in range(len(op.node.inputs)) for label in op.labels(index))
        yield from fix(tuple(labels), f"{op.node.op_type} multiplies two computed matrices")
        return
    reads = 0 if op.attr("transA", 0) else 1
    reads_weight, writes_weight = (1, 0) if op.attr("transB", 0) else (0, 1)
    yield from fix(apart_from(op.labels(), [reads]), f"{op.node.op_type}'s other axis is not a channel axis")
    inner, outer = op.atoms(reads), op.fresh(op.out_shape()[1])
    yield Out(0, on(1, outer))
    yield Param(places.weight, Label((reads_weight,), inner), True, places.nothing)
    yield Param(places.weight, Label((writes_weight,), outer))
    yield from per_output(op, places, outer)
    yield dense(op, places, "gemm", 0, inner, outer)


def dense(op: Op, places: Places, kind: Kind, x: int, inner: Atoms, outer: Atoms) -> Linear:
    """A layer of one matrix; `x` is the place of the other operand."""
    rows = prod(op.out_shape()) // outer.size
    values = op.input(x), op.input(places.weight), _bias(op, places), op.node.outputs[0]
    blocks = inner[None], outer[None]
    return Linear(op.node, kind, *values, 1, *blocks, rows, _refittable(op, kind), places.decode)


def _refittable(op: Op, kind: Kind) -> bool:
    """Whether the layer is plainly X Wᵀ + b, with rows of X in its last axis."""
    plain = op.attr("alpha", 1.0) == 1.0 and op.attr("beta", 1.0) == 1.0 and not op.attr("transA", 0)
    return plain and kind != "left_matmul"
