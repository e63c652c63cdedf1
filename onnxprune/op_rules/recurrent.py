"""Rules of the recurrent layers: a hidden unit takes along its gates, its states and what other units read of it."""

from math import prod

import numpy as np

from onnxprune.labels import Atoms, Label, apart_from, touching
from onnxprune.op_rules.facts import Balanced, Facts, Fixed, Linear, Out, Param, Size, Tie
from onnxprune.op_rules.registry import Op, fix, rule

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
W, R, B, LENGTHS, PEEPHOLES = 1, 2, 3, 4, 7
STATES = (5, 6)


@rule("LSTM", "GRU", "RNN")
def recurrent(op: Op) -> Facts:
    """Input channels are summed over, hidden units are new; both directions lose equally many."""
    if not all(op.constant(index) for index in (W, R, B, PEEPHOLES) if op.has(index)):
        labels = (label for index in range(len(op.node.inputs)) for label in op.labels(index))
        yield from fix(tuple(labels), f"the weight of {op.node.op_type} is computed")
        return
    directions, _, width = op.shape(R)
    units = op.fresh(directions * width).reshape(directions, width)
    yield from _input(op)
    yield from _weights(op, units)
    for index in STATES:
        if op.has(index):
            yield from _state(op, index, units)
    for index in op.outputs():
        batch_first = op.attr("layout", 0)
        yield Out(index, (_placed(batch_first if index else 1 + batch_first, len(op.out_shape(index)) - 1, units),))
    yield Size(op.node, "hidden_size", None, Label((0,), units[0]))
    if directions > 1:
        yield Balanced(units, f"{op.node.op_type} has one width for both directions")


def _placed(direction: int, axis: int, atoms: Atoms) -> Label:
    """The label of atoms (directions, positions) on these axes; of one direction only the last axis needs any."""
    return Label((axis,), atoms[0]) if len(atoms) == 1 else Label((direction, axis), atoms)


def _input(op: Op) -> Facts:
    """Time and batch must stay, and so must channels that lie on them too."""
    yield from fix(apart_from(op.labels(), [2]), f"{op.node.op_type} runs over its axis")
    yield from fix(tuple(x for x in touching(op.labels(), [2]) if len(x.axes) > 1), "its channels are split over axes")
    yield from fix(op.labels(LENGTHS), f"{op.node.op_type} takes lengths from it")


def _weights(op: Op, units: Atoms) -> Facts:
    """The blocks of all gates hold the same units in the same order; recurrent weights read them as well."""
    inner, gates = op.atoms(2), GATES[op.node.op_type]
    gated = np.tile(units, gates)
    yield Param(W, Label((2,), inner), contracted=True)
    yield Param(W, _placed(0, 1, gated))
    yield Param(R, _placed(0, 2, units), contracted=True)
    yield Param(R, _placed(0, 1, gated))
    if op.has(B):
        yield Param(B, _placed(0, 1, np.tile(gated, 2)))
    if op.has(PEEPHOLES):
        yield Param(PEEPHOLES, _placed(0, 1, np.tile(units, 3)))
    yield from _layers(op, units, gated)


def _layers(op: Op, units: Atoms, gated: Atoms) -> Facts:
    """The weights of the input make a plain layer of all gates; the recurrent ones read what they make."""
    steps, made = prod(op.shape()[:2]), op.node.outputs[op.outputs()[0]]
    bias = op.input(B) if op.has(B) else None
    read, outputs = op.atoms(2)[None], gated.reshape(1, -1)
    yield Linear(op.node, "recurrent", op.input(0), op.input(W), bias, made, 1, read, outputs, steps, op.has(B))
    yield Linear(op.node, "recurrent", made, op.input(R), None, made, len(units), units, gated, steps, refit=False)


def _state(op: Op, index: int, units: Atoms) -> Facts:
    """An initial state has a number for each hidden unit."""
    direction = op.attr("layout", 0)
    if op.constant(index):
        yield Param(index, _placed(direction, 2, units))
        return
    held = [label for label in op.labels(index) if 2 in label.axes and set(label.axes) <= {direction, 2}]
    for label in op.labels(index):
        if label in held:
            yield Tie(np.broadcast_to(label.atoms, units.shape), units)
        else:
            yield Fixed(label.atoms, f"{op.node.op_type} runs over its axis")
    if not held:
        yield Fixed(units, f"its initial state {op.input(index).name!r} has no prunable channels")
