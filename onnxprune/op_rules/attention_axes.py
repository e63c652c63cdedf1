"""Rules of ONNX's own attention, with the heads on an axis of their own or in the last; and of rotary embeddings."""

from collections.abc import Sequence
from math import prod

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label, Labels, on, touching
from onnxprune.op_rules.attention import MICROSOFT, alone, per_head, same_heads, whole_heads
from onnxprune.op_rules.facts import Facts, Out, Product, Size, Summed, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule

HEADS, SIZE = 1, 3
"""The axes of (batch, heads, positions, size) that carry channels."""


@rule("Attention")
def attention(op: Op) -> Facts:
    """Opset 23: queries, keys and values (batch, heads, positions, size), or with the heads in the last axis."""
    if len(op.shape()) == 4:
        yield from _four_axes(op)
    elif op.attr("q_num_heads") and op.attr("kv_num_heads"):
        yield from _three_axes(op)
    else:
        yield from fix(tuple(x for i in range(3) for x in op.labels(i)), "Attention does not say how many heads it has")


def _four_axes(op: Op) -> Facts:
    heads, groups = op.shape()[HEADS], op.shape(1)[HEADS]
    stands = [_stands(op, index) for index in range(3)]
    for index, (atoms, facts) in enumerate(stands):
        yield from facts
        yield from _two_axes(op, index)
        yield Tie(np.repeat(atoms, heads // atoms.size), stands[0][0])
    if op.attr("scale") is None:
        yield from (fact for i in (0, 1) for fact in hold(op.labels(i), [SIZE], "Attention's scale depends on it"))
    for index, past in ((0, 4), (1, 4), (2, 5)):
        yield from _past(op, index, past)
    yield from _same_sizes(op)
    yield from _of_heads(op, stands[0][0], stands[1][0])
    yield Out(0, _values(op, heads // groups))
    for index in (i for i in op.outputs() if i in (1, 2)):
        yield Out(index, _channels(op.labels(index)))
    yield Product(op.node, 2 * prod(op.out_shape()) * op.shape(1)[2], Label((0,), stands[0][0]))


def _past(op: Op, index: int, past: int) -> Facts:
    """What is joined to a past keeps the size of its heads, and those too where the past has none that can go."""
    if op.has(past) and (op.constant(past) or touching(op.labels(past), [HEADS])):
        yield from hold(op.labels(index), [SIZE], "Attention joins it to the past")
    elif op.has(past):
        reason = f"Attention reads the past {op.input(past).name!r}, which has no prunable channels"
        yield from fix(op.labels(index), reason)


def _of_heads(op: Op, heads: Atoms, groups: Atoms) -> Facts:
    """What has one number, or one matrix, for each head: attributes, the mask, the past and the scores."""
    for name, atoms in (("q_num_heads", heads), ("kv_num_heads", groups)):
        if op.attr(name):
            yield Size(op.node, name, None, Label((0,), atoms))
    yield from per_head(op, 3, heads, -3, "the mask")
    for index in (4, 5):
        yield from per_head(op, index, groups, HEADS, "the past")
    if 3 in op.outputs():
        yield Out(3, on(HEADS, heads))


def _channels(labels: Labels) -> Labels:
    """The labels that lie on axes of channels and no others."""
    return tuple(label for label in labels if set(label.axes) <= {HEADS, SIZE})


def _two_axes(op: Op, index: int) -> Facts:
    apart = tuple(label for label in op.labels(index) if not set(label.axes) <= {HEADS, SIZE})
    yield from fix(apart, f"{op.node.op_type} mixes the positions of its axis")


def _stands(op: Op, index: int) -> tuple[Atoms, Facts]:
    """What stands for the heads of one input, `WHOLE` where it has none that can go; and the fact that says so."""
    for label in touching(op.labels(index), [HEADS]):
        return line(op, label, HEADS)
    return np.full(op.shape(index)[HEADS], WHOLE), iter(())


def _same_sizes(op: Op) -> Facts:
    """Queries and keys lose the same positions of every head; where either cannot, the other stays as well."""
    first, second = (touching(op.labels(index), [SIZE]) for index in (0, 1))
    yield from (Summed(0, label) for label in first)
    for label, other in zip(first, second, strict=False):
        if label.axes == other.axes:
            repeats = label.atoms.shape[0] // other.atoms.shape[0]
            yield Tie(label.atoms, np.repeat(other.atoms, repeats, axis=0))
        else:
            yield from fix((label, other), "Attention joins channels that are split over different axes")
    yield from hold((*first[len(second) :], *second[len(first) :]), [SIZE], "Attention sums it against all positions")


def _values(op: Op, repeats: int) -> Labels:
    """The labels of the values, a head of them for each head of queries."""
    found = []
    for label in _channels(op.labels(2)):
        atoms = np.repeat(label.atoms, repeats, axis=0) if HEADS in label.axes else label.atoms
        found.append(Label(label.axes, atoms))
    return tuple(found)


def _three_axes(op: Op) -> Facts:
    counts: Sequence[int] = [op.attr("q_num_heads"), *[op.attr("kv_num_heads")] * 2]
    yield from same_heads(op, counts)
    heads, groups = (whole_heads(op.atoms(2, i), counts[i])[0] for i in (0, 1))
    yield from _of_heads(op, heads, groups)
    values = op.atoms(2, 2).reshape(counts[1], -1)
    yield Out(0, on(2, np.repeat(values, counts[0] // counts[1], axis=0).reshape(-1)))
    for index in (i for i in op.outputs() if i in (1, 2)):
        yield Out(index, on(HEADS, groups))
    yield Product(op.node, 2 * prod(op.out_shape()) * op.shape(1)[1], Label((0,), heads))


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: Op) -> Facts:
    """Each position of a head turns by an angle of its own, so heads stay whole."""
    if len(op.shape()) == 4:
        yield from _two_axes(op, 0)
        yield from hold(op.labels(), [SIZE], "RotaryEmbedding turns each of its positions by another angle")
        heads = _stands(op, 0)
        yield from heads[1]
        yield from _number(op, heads[0])
        yield Out(0, _channels(op.labels()))
    elif count := _heads_of(op):
        yield from alone(op, 0)
        stands, tie = whole_heads(op.atoms(2), count)
        yield tie
        yield from _number(op, stands)
        yield Out(0, on(2, op.atoms(2)))
    else:
        yield from fix(op.labels(), "RotaryEmbedding does not say how many heads it turns")


def _number(op: Op, heads: Atoms) -> Facts:
    if op.attr("num_heads"):
        yield Size(op.node, "num_heads", None, Label((0,), heads))


def _heads_of(op: Op) -> int:
    """How many heads lie in the last axis: as the attribute says, else onnxruntime turns all of each; 0: unknown."""
    given: int = op.attr("num_heads", 0)
    if given or op.domain != MICROSOFT or op.attr("rotary_embedding_dim", 0):
        return given
    return op.shape()[2] // (2 * op.shape(2)[-1])
