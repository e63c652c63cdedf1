"""Rules of the layers that multiply quanta: the weight's zero point is what contributes nothing."""

from collections.abc import Callable

import numpy as np

from onnxprune.graph import Array
from onnxprune.op_rules.facts import Facts, Summed
from onnxprune.op_rules.linear import Places, convolve, multiply
from onnxprune.op_rules.matmul import product, sides, weighted
from onnxprune.op_rules.registry import Op, fix, rule

CONTRIB = "com.microsoft"


def _places(op: Op, weight: int, scale: int | None, zero: int, bias: int | None, axis: int) -> Places:
    """The places of a layer whose weight has its output channels on `axis`, one number for each in its vectors."""
    vectors = (zero,) if scale is None else (scale, zero)
    rank = len(op.shape(weight))

    def along(index: int | None) -> Array | None:
        numbers = op.array(index) if index is not None else None
        if numbers is None or numbers.size == 1:
            return None if numbers is None else numbers.reshape(())
        return numbers.reshape([-1 if a == axis else 1 for a in range(rank)])

    nothing, factor = along(zero), along(scale)
    decode = _decoder(nothing, factor)
    return Places(weight, bias, vectors, nothing, decode)


def _decoder(zero: Array | None, scale: Array | None) -> Callable[[Array], Array]:
    def decode(quanta: Array) -> Array:
        numbers = quanta.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
        return np.asarray(numbers * (1 if scale is None else scale.astype(np.float32)))

    return decode


def _settled(op: Op, zero: int) -> bool:
    """Whether the weight's zero point is known, so that what contributes nothing is."""
    return not op.has(zero) or op.array(zero) is not None


@rule("QLinearConv")
def qlinear_conv(op: Op) -> Facts:
    """Quanta in, quanta out."""
    if _settled(op, 5):
        yield from convolve(op, _places(op, 3, 4, 5, 8, 0))
    else:
        yield from fix(op.labels(), "the zero point of its weight is computed")


@rule("ConvInteger")
def conv_integer(op: Op) -> Facts:
    """Quanta in, whole sums out."""
    if _settled(op, 3):
        yield from convolve(op, _places(op, 1, None, 3, None, 0))
    else:
        yield from fix(op.labels(), "the zero point of its weight is computed")


@rule("QGemm", domain=CONTRIB)
def qgemm(op: Op) -> Facts:
    """A Gemm of quanta."""
    if _settled(op, 5):
        yield from multiply(op, _places(op, 3, 4, 5, 6, 0 if op.attr("transB", 0) else 1))
    else:
        yield from fix(op.labels(), "the zero point of its weight is computed")


@rule("QLinearMatMul")
def qlinear_matmul(op: Op) -> Facts:
    """Quanta in, quanta out."""
    yield from _matmul(op, 0, 3, 2, _places(op, 3, 4, 5, None, 1))


@rule("MatMulInteger")
def matmul_integer(op: Op) -> Facts:
    """Quanta in, whole sums out."""
    yield from _matmul(op, 0, 1, 2, _places(op, 1, None, 3, None, 1))


@rule("MatMulIntegerToFloat", domain=CONTRIB)
def matmul_integer_to_float(op: Op) -> Facts:
    """Quanta in, numbers out."""
    yield from _matmul(op, 0, 1, 4, _places(op, 1, 3, 5, 6, 1))


@rule("DynamicQuantizeMatMul", domain=CONTRIB)
def dynamic_matmul(op: Op) -> Facts:
    """The left side becomes quanta of a range that always includes zero: channels of zeros are as good as gone."""
    for label in op.labels():
        yield Summed(0, label)
    if op.constant(1) and _settled(op, 3):
        yield from weighted(op, _places(op, 1, 2, 3, 4, 1), 0)
    else:
        yield from fix((*op.labels(0), *op.labels(1)), "DynamicQuantizeMatMul multiplies two computed matrices")


def _matmul(op: Op, left: int, right: int, left_zero: int, places: Places) -> Facts:
    """A weight on the right, or two activations of one zero point each."""
    zeros = left_zero, places.vectors[-1]
    plain = all(not op.has(zero) or op.shape(zero) in ((), (1,)) for zero in zeros)
    if op.constant(right) and _settled(op, zeros[1]) and not op.constant(left):
        yield from weighted(op, places, left)
    elif not op.constant(left) and not op.constant(right) and plain and min(map(len, map(op.shape, (left, right)))) > 1:
        yield from product(sides(op, (left, right), zeros=zeros))
    else:
        yield from fix((*op.labels(left), *op.labels(right)), f"{op.node.op_type} has its weight on the left")
