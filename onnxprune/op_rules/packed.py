"""Rule of the layer whose weight is packed into bytes, several numbers a byte, with a scale for each block."""

from math import prod

import numpy as np

from onnxprune.graph import Array
from onnxprune.labels import Atoms, Label, apart_from, atoms_of, on, touching
from onnxprune.op_rules.facts import Facts, Fixed, Linear, Out, Param, Size
from onnxprune.op_rules.linear import Places, per_output
from onnxprune.op_rules.quantise import whole_blocks
from onnxprune.op_rules.quantised_layers import CONTRIB
from onnxprune.op_rules.registry import Op, fix, rule

WEIGHT, SCALES, ZEROS, ORDER, BIAS = 1, 2, 3, 4, 5


@rule("MatMulNBits", domain=CONTRIB)
def matmul_nbits(op: Op) -> Facts:
    """Outputs go one by one, inputs by whole blocks, where no byte holds parts of two."""
    axis = len(op.shape()) - 1
    straddling = tuple(label for label in touching(op.labels(), [axis]) if len(label.axes) > 1)
    yield from fix(straddling, "its channels are split over axes")
    inner = atoms_of(op.labels(), axis, op.shape()[axis])
    if any(not op.constant(i) for i in (WEIGHT, SCALES, ZEROS) if op.has(i)) or op.has(ORDER):
        yield from fix(op.labels(), "MatMulNBits takes a computed weight, or its inputs in another order")
        return
    outer = op.fresh(op.out_shape()[axis])
    yield Out(0, (*apart_from(op.labels(), [axis]), *on(axis, outer)))
    yield from _outputs(op, outer)
    for label in on(0, inner):
        yield from _inputs(op, label)
    values = op.input(0), op.input(WEIGHT), op.input(BIAS) if op.has(BIAS) else None, op.node.outputs[0]
    macs = prod(op.shape()[:axis]) * 8 // int(op.attr("bits", 4))
    yield Linear(
        op.node, "matmul", *values, 1, inner[None], outer[None], macs, decode=lambda packed: _unpacked(op, packed)
    )


def _outputs(op: Op, outer: Atoms) -> Facts:
    """Every constant has a row for each output; some are flat."""
    yield Size(op.node, "N", None, Label((0,), outer))
    yield from per_output(op, Places(WEIGHT, BIAS), outer)
    for index in (i for i in (WEIGHT, SCALES, ZEROS) if op.has(i)):
        yield Param(index, Label((0,), np.repeat(outer, op.shape(index)[0] // outer.size)))


def _inputs(op: Op, label: Label) -> Facts:
    """A block whose scale is zero contributes nothing."""
    count = op.shape(WEIGHT)[1]
    rows = [i for i in (SCALES, ZEROS) if op.has(i)]
    if any(op.shape(i)[1:] != (count,) for i in rows):
        yield Fixed(label.atoms, "MatMulNBits packs the numbers of several blocks into one byte")
        return
    ties, blocks = whole_blocks(label.atoms, int(op.attr("block_size")))
    yield ties
    yield Size(op.node, "K", None, label)
    yield Param(WEIGHT, Label((1,), blocks))
    for index in rows:
        yield Param(index, Label((1,), blocks), contracted=index == SCALES)


def _unpacked(op: Op, packed: Array) -> Array:
    """The weight (K, N) as real numbers."""
    bits, scales = int(op.attr("bits", 4)), op.array(SCALES)
    assert scales is not None
    count, blocks, _ = packed.shape
    quanta = _spread(packed, bits).reshape(count, blocks, -1)
    numbers = (quanta - _zeros(op, bits, count, blocks)[..., None]) * scales.reshape(count, blocks, 1)
    weight: Array = numbers.reshape(count, -1)[:, : op.shape()[-1]].T
    return weight


def _zeros(op: Op, bits: int, count: int, blocks: int) -> Array:
    given = op.array(ZEROS)
    if given is None:
        return np.full((1, 1), 2.0 ** (bits - 1), np.float32)
    if given.dtype != np.uint8:
        return given.reshape(count, blocks).astype(np.float32)
    return _spread(given.reshape(count, -1), bits)[:, :blocks]


def _spread(packed: Array, bits: int) -> Array:
    """The numbers in the last axis of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return spread.reshape(*packed.shape[:-1], -1).astype(np.float32)
