"""Rules of the operators that trade channels for space: DepthToSpace, SpaceToDepth, Col2Im."""

import numpy as np

from onnxprune.labels import Atoms, apart_from, on
from onnxprune.op_rules.facts import Facts, Out, Tie
from onnxprune.op_rules.registry import Op, fix, rule


@rule("DepthToSpace")
def depth_to_space(op: Op) -> Facts:
    """The channels that make up the blocks of one output channel go together."""
    yield from _only_channels(op)
    rows = _by_output(op.atoms(1), op.attr("blocksize") ** 2, op.attr("mode", "DCR"))
    yield from _merged(rows)


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> Facts:
    """Each channel lies at every place of a block: those positions go together."""
    yield from _only_channels(op)
    places = op.attr("blocksize") ** 2
    atoms = op.atoms(1)
    yield Out(0, on(1, np.tile(atoms, places) if op.attr("mode", "DCR") == "DCR" else np.repeat(atoms, places)))


@rule("Col2Im")
def col2im(op: Op) -> Facts:
    """The columns of one output channel go together."""
    block = op.ints(2)
    if block is None:
        yield from fix(op.labels(), "Col2Im's block is computed at run time")
        return
    yield from _only_channels(op)
    yield from _merged(_by_output(op.atoms(1), int(np.prod(block)), "CRD"))


def _only_channels(op: Op) -> Facts:
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} moves positions between its axis and the channels")
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")


def _by_output(atoms: Atoms, places: int, mode: str) -> Atoms:
    """(output channels, places): the input channels of each output channel."""
    return atoms.reshape(places, -1).T if mode == "DCR" else atoms.reshape(-1, places)


def _merged(rows: Atoms) -> Facts:
    yield Tie(np.broadcast_to(rows[:, :1], rows[:, 1:].shape), rows[:, 1:])
    yield Out(0, on(1, rows[:, 0]))
