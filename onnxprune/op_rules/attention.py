"""Rules of fused attention: whole heads go, since the scale and the rotation of a head depend on its size."""

from math import prod

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label, Labels, apart_from, on, touching
from onnxprune.op_rules.facts import Facts, Fixed, Linear, Out, Param, Product, Size, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule

MICROSOFT = "com.microsoft"
Heads = tuple[Atoms, list[Tie]]
"""What stands for each head, and the ties that keep heads whole."""


def _whole_heads(atoms: Atoms, heads: int) -> Heads:
    """The heads among the channels of a tensor (…, heads · size): all of one go together."""
    grid = atoms.reshape(heads, -1)
    return grid[:, 0], [Tie(np.broadcast_to(grid[:, :1], grid[:, 1:].shape), grid[:, 1:])]


def _per_head(op: Op, index: int, heads: Atoms, axis: int, what: str) -> Facts:
    """An input that has one position a head along `axis`: a constant is cut, an activation goes along or holds them."""
    if not op.has(index) or op.shape(index)[axis] == 1:
        return
    if op.constant(index):
        yield Param(index, Label((axis,), heads))
        return
    own = touching(op.labels(index), [axis])
    for label in own:
        atoms, facts = line(op, label, axis)
        yield from facts
        yield Tie(atoms, heads)
    if not own:
        yield Fixed(heads, f"{op.node.op_type} reads {what} {op.input(index).name!r}, which has no prunable channels")


@rule("Attention", domain=MICROSOFT)
def attention(op: Op) -> Facts:
    """Projections of one weight (channels, queries | keys | values), and heads of them."""
    if not op.constant(1) or len(op.shape()) != 3:
        yield from fix(op.labels(), "the weight of Attention is computed")
        return
    heads, columns = op.attr("num_heads"), op.shape(1)[1]
    sizes = [int(n) for n in op.attr("qkv_hidden_sizes") or [columns // 3] * 3]
    stands = op.fresh(heads)
    outer = np.concatenate([np.repeat(stands, size // heads) for size in sizes])
    yield from fix(apart_from(op.labels(), [2]), "Attention mixes the positions of its axis")
    yield Param(1, Label((0,), op.atoms(2)), contracted=True)
    yield Param(1, Label((1,), outer))
    if op.has(2):
        yield Param(2, Label((0,), outer))
    yield Size(op.node, "num_heads", None, Label((0,), stands))
    if op.attr("qkv_hidden_sizes"):
        for element, size in enumerate(sizes):
            yield Size(op.node, "qkv_hidden_sizes", element, Label((0,), np.repeat(stands, size // heads)))
    yield from _per_head(op, 4, stands, 2, "the past")
    yield from _per_head(op, 5, stands, 1, "the bias")
    yield from _attended(op, np.repeat(stands, sizes[2] // heads), stands, 2)
    bias = op.input(2) if op.has(2) else None
    rows = prod(op.shape()[:2])
    operands = op.input(0), op.input(1), bias, op.node.outputs[0]
    yield Linear(op.node, "matmul", *operands, 1, op.atoms(2)[None], outer[None], rows, refit=False)


def _attended(op: Op, values: Atoms, heads: Atoms, past_axis: int) -> Facts:
    """The outputs: values (batch, positions, channels), and what is handed on of the past."""
    yield Out(0, on(2, values))
    for index in op.outputs()[1:]:
        yield Out(index, on(past_axis, heads))
    yield Product(op.node, 2 * prod(op.out_shape()) * op.shape()[1], Label((0,), values))


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: Op) -> Facts:
    """Queries, keys and values (batch, positions, heads · size) lose the same heads."""
    if not all(op.has(i) and not op.constant(i) and len(op.shape(i)) == 3 for i in range(3)):
        yield from fix(tuple(x for i in range(3) for x in op.labels(i)), "MultiHeadAttention reads packed inputs")
        return
    yield from _same_heads(op, [op.attr("num_heads")] * 3)
    heads = _whole_heads(op.atoms(2), op.attr("num_heads"))[0]
    if op.has(3):
        yield Param(3, Label((0,), np.concatenate([op.atoms(2, i) for i in range(3)])))
    yield Size(op.node, "num_heads", None, Label((0,), heads))
    yield from _per_head(op, 5, heads, 1, "the bias")
    for index in (6, 7):
        yield from _per_head(op, index, heads, 1, "the past")
    yield from _attended(op, op.atoms(2, 2), heads, 1)


@rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(op: Op) -> Facts:
    """A head of keys and values goes with all heads of queries that read it."""
    if not all(op.has(i) and not op.constant(i) and len(op.shape(i)) == 3 for i in range(3)):
        yield from fix(tuple(x for i in range(3) for x in op.labels(i)), "GroupQueryAttention reads packed inputs")
        return
    counts = [op.attr("num_heads"), op.attr("kv_num_heads"), op.attr("kv_num_heads")]
    yield from _same_heads(op, counts)
    heads, groups = (_whole_heads(op.atoms(2, i), counts[i])[0] for i in (0, 1))
    yield Size(op.node, "num_heads", None, Label((0,), heads))
    yield Size(op.node, "kv_num_heads", None, Label((0,), groups))
    for index in (3, 4):
        yield from _per_head(op, index, groups, 1, "the past")
    yield from _attended(op, op.atoms(2), groups, 1)


def _same_heads(op: Op, counts: list[int]) -> Facts:
    """Tie the heads of the first three inputs, each head of fewer with a run of more."""
    found = [_whole_heads(op.atoms(2, i), count) for i, count in enumerate(counts)]
    for i, (stands, ties) in enumerate(found):
        yield from fix(apart_from(op.labels(i), [2]), f"{op.node.op_type} mixes the positions of its axis")
        yield from ties
        yield Tie(np.repeat(stands, counts[0] // counts[i]), found[0][0])


@rule("Attention")
def onnx_attention(op: Op) -> Facts:
    """Opset 23: queries, keys and values (batch, heads, positions, size), or with the heads in the last axis."""
    if len(op.shape()) == 3:
        yield from _three_axes(op)
        return
    heads, groups = op.shape()[1], op.shape(1)[1]
    stands = [_stands(op, i) for i in range(3)]
    for i, (atoms, _) in enumerate(stands):
        yield from fix(apart_from(op.labels(i), [1, 3]), "Attention mixes the positions of its axis")
        yield from stands[i][1]
        yield Tie(np.repeat(atoms, heads // (heads if i == 0 else groups)), stands[0][0])
    for index in (0, 1) if op.attr("scale") is None else ():
        yield from hold(op.labels(index), [3], "Attention's scale depends on it")
    yield from _tied_sizes(op)
    yield from _per_head(op, 3, stands[0][0], -3 % len(op.shape(3)) if op.has(3) else 0, "the mask")
    for index in (4, 5):
        yield from fix(op.labels(index), "Attention reads it as the past")
        yield from _per_head(op, index, stands[1][0], 1, "the past")
    yield Out(0, _values(op, heads, groups))
    for index in op.outputs()[1:]:
        yield Out(index, on(1, stands[1 if index < 3 else 0][0]))
    yield Product(op.node, 2 * prod(op.out_shape()) * op.shape(1)[2])


def _stands(op: Op, index: int) -> tuple[Atoms, list[Tie]]:
    """What stands for the heads of one input; `WHOLE` where it has none that can go."""
    for label in touching(op.labels(index), [1]):
        atoms, facts = line(op, label, 1)
        return atoms, list(facts)  # type: ignore[arg-type]
    return np.full(op.shape(index)[1], WHOLE), []


def _tied_sizes(op: Op) -> Facts:
    """Queries and keys lose the same positions of every head; where either cannot, the other stays as well."""
    first, second = (touching(op.labels(index), [3]) for index in (0, 1))
    for label, other in zip(first, second, strict=False):
        if label.atoms.ndim == other.atoms.ndim == 2:
            repeats = label.atoms.shape[0] // other.atoms.shape[0]
            yield Tie(label.atoms, np.repeat(other.atoms, repeats, axis=0))
        else:
            yield from hold((label, other), [3], "Attention joins channels that are split over different axes")
    for label in (*first[len(second) :], *second[len(first) :]):
        yield from hold((label,), [3], "Attention sums it against all positions")


def _values(op: Op, heads: int, groups: int) -> Labels:
    """The labels of the values, a head of them for each head of queries."""
    found = []
    for label in op.labels(2):
        atoms = np.repeat(label.atoms, heads // groups, axis=0) if 1 in label.axes else label.atoms
        found.append(Label(label.axes, atoms))
    return tuple(found)


def _three_axes(op: Op) -> Facts:
    counts = [op.attr("q_num_heads"), op.attr("kv_num_heads"), op.attr("kv_num_heads")]
    yield from _same_heads(op, counts)
    heads, groups = (_whole_heads(op.atoms(2, i), counts[i])[0] for i in (0, 1))
    yield Size(op.node, "q_num_heads", None, Label((0,), heads))
    yield Size(op.node, "kv_num_heads", None, Label((0,), groups))
    yield from _per_head(op, 3, heads, -3 % len(op.shape(3)) if op.has(3) else 0, "the mask")
    for index in (4, 5):
        yield from _per_head(op, index, groups, 1, "the past")
    values = op.atoms(2, 2).reshape(counts[1], -1)
    yield Out(0, on(2, np.repeat(values, counts[0] // counts[1], axis=0).reshape(-1)))
    for index in op.outputs()[1:]:
        yield Out(index, on(1, groups if index < 3 else heads))
    yield Product(op.node, 2 * prod(op.out_shape()) * op.shape(1)[1])


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: Op) -> Facts:
    """Each position of a head turns by an angle of its own, so heads stay whole."""
    if len(op.shape()) == 4:
        yield from hold(op.labels(), [3], "RotaryEmbedding turns each of its positions by another angle")
        yield Out(0, op.labels())
        return
    count = op.attr("num_heads", 0)
    if not count:
        yield from fix(op.labels(), "RotaryEmbedding does not say how many heads it turns")
        return
    heads, ties = _whole_heads(op.atoms(2), count)
    yield from ties
    yield Size(op.node, "num_heads", None, Label((0,), heads))
    yield Out(0, op.labels())
