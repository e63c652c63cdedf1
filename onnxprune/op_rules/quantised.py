"""Rules of the operators that work on quanta position by position, or over positions of one channel."""

import numpy as np

from onnxprune.labels import apart_from, atoms_of, on, touching
from onnxprune.op_rules.elementwise import aligned
from onnxprune.op_rules.facts import Facts, Out
from onnxprune.op_rules.join import concatenated
from onnxprune.op_rules.quantised_layers import CONTRIB
from onnxprune.op_rules.registry import Op, fix, rule


def _one_grid(op: Op, *settings: int) -> Facts:
    """These operators know one scale a tensor; where a model holds more, its channels stay."""
    if any(op.has(index) and int(np.prod(op.shape(index))) != 1 for index in settings):
        yield from fix(tuple(x for i in op.activations() for x in op.labels(i)), f"{op.node.op_type} has many scales")


@rule("QLinearAdd", "QLinearMul", domain=CONTRIB)
def binary(op: Op) -> Facts:
    """Operands and what describes them take turns: A, scale, zero point, B, scale, zero point."""
    yield from _one_grid(op, 1, 2, 4, 5, 6, 7)
    yield Out(0, (yield from aligned(op, (0, 3))))


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain=CONTRIB)
def unary(op: Op) -> Facts:
    """Position by position."""
    yield from _one_grid(op, 1, 2, 3, 4)
    yield Out(0, op.labels())


@rule("QLinearConcat", domain=CONTRIB)
def concat(op: Op) -> Facts:
    """After the result's scale and zero point, each input with its own."""
    indices = range(2, len(op.node.inputs), 3)
    yield from _one_grid(op, *(i for i in range(len(op.node.inputs)) if i not in indices))
    yield from concatenated(op, indices)


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain=CONTRIB)
def pool(op: Op) -> Facts:
    """Channels pass, one by one."""
    axis = len(op.shape()) - 1 if op.attr("channels_last", 0) else 1
    others = (*apart_from(op.labels(), [axis]), *(x for x in touching(op.labels(), [axis]) if len(x.axes) > 1))
    yield from fix(others, f"{op.node.op_type} slides over its axis")
    yield Out(0, on(axis, atoms_of(op.labels(), axis, op.shape()[axis])))


@rule("QLinearSoftmax", domain=CONTRIB)
def softmax(op: Op) -> Facts:
    """Positions along the axis are weighed against each other; before opset 13 all axes from there on are."""
    rank = len(op.shape())
    axis = op.attr("axis", -1) % rank
    axes = [axis] if op.attr("opset", 13) >= 13 else list(range(axis, rank))
    yield from fix(touching(op.labels(), axes), "QLinearSoftmax weighs its positions against each other")
    yield Out(0, apart_from(op.labels(), axes))
