"""Rules of onnxruntime's fused attention: whole heads go, since the scale and rotation of one depend on its size."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from onnxprune.labels import Atoms, Label, on, touching
from onnxprune.op_rules.facts import Facts, Fixed, Linear, Out, Param, Product, Size, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule

MICROSOFT = "com.microsoft"
Heads = tuple[Atoms, Tie]
"""What stands for each head, and the tie that keeps heads whole."""


def whole_heads(atoms: Atoms, heads: int) -> Heads:
    """The heads among the channels of a tensor (…, heads · size): all of one go together."""
    grid = atoms.reshape(heads, -1)
    return grid[:, 0], Tie(np.broadcast_to(grid[:, :1], grid[:, 1:].shape), grid[:, 1:])


def per_head(op: Op, index: int, heads: Atoms, axis: int, what: str) -> Facts:
    """An input that has one position a head along `axis`: a constant is cut, an activation goes along or holds them.

    A negative axis counts from the end; an input without it, or with a single position there, is for all heads.
    """
    shape = op.shape(index) if op.has(index) else ()
    axis = axis if axis >= 0 else len(shape) + axis
    if not 0 <= axis < len(shape) or shape[axis] == 1:
        return
    if op.constant(index):
        yield Param(index, Label((axis,), heads))
        return
    others = [a for a in range(len(shape)) if a != axis]
    yield from hold(op.labels(index), others, f"{op.node.op_type} takes all of {what}")
    own = touching(op.labels(index), [axis])
    for label in own:
        atoms, facts = line(op, label, axis)
        yield from facts
        yield Tie(atoms, heads)
    if not own:
        yield Fixed(heads, f"{op.node.op_type} reads {what} {op.input(index).name!r}, which has no prunable channels")


def alone(op: Op, index: int) -> Facts:
    """Fix what does not lie on the last axis of an input (batch, positions, channels), and on that alone."""
    apart = tuple(label for label in op.labels(index) if label.axes != (2,))
    yield from fix(apart, f"{op.node.op_type} mixes the positions of its axis")


def same_heads(op: Op, counts: Sequence[int]) -> Facts:
    """Tie the heads of the first three inputs, each head of fewer with a run of more."""
    found = [whole_heads(op.atoms(2, i), count) for i, count in enumerate(counts)]
    for i, (stands, tie) in enumerate(found):
        yield from alone(op, i)
        yield tie
        yield Tie(np.repeat(stands, counts[0] // counts[i]), found[0][0])


@rule("Attention", domain=MICROSOFT)
def attention(op: Op) -> Facts:
    """Projections of one weight (channels, queries | keys | values), and heads of them."""
    if not op.constant(1) or (op.has(2) and not op.constant(2)) or len(op.shape()) != 3:
        yield from fix(tuple(x for i in range(3) for x in op.labels(i)), "the weight of Attention is computed")
        return
    heads, columns = op.attr("num_heads"), op.shape(1)[1]
    sizes = [int(n) for n in op.attr("qkv_hidden_sizes") or [columns // 3] * 3]
    stands = op.fresh(heads)
    outer = np.concatenate([np.repeat(stands, size // heads) for size in sizes])
    yield from alone(op, 0)
    yield Param(1, Label((0,), op.atoms(2)), contracted=True)
    yield from (Param(index, Label((axis,), outer)) for index, axis in ((1, 1), (2, 0)) if op.has(index))
    yield Size(op.node, "num_heads", None, Label((0,), stands))
    for element, size in enumerate(sizes) if op.attr("qkv_hidden_sizes") else ():
        yield Size(op.node, "qkv_hidden_sizes", element, Label((0,), np.repeat(stands, size // heads)))
    yield from per_head(op, 4, stands, 2, "the past")
    yield from per_head(op, 5, stands, 1, "the bias")
    yield from _attended(op, np.repeat(stands, sizes[2] // heads), {1: (2, stands)}, op.shape()[1])
    operands = op.input(0), op.input(1), op.input(2) if op.has(2) else None, op.node.outputs[0]
    rows = prod(op.shape()[:2])
    yield Linear(op.node, "matmul", *operands, 1, op.atoms(2)[None], outer[None], rows, refit=False)


def _attended(op: Op, values: Atoms, others: Mapping[int, tuple[int, Atoms]], keys: int) -> Facts:
    """The outputs: values (batch, positions, channels), and others with the axis and atoms of their heads."""
    yield Out(0, on(2, values))
    for index in op.outputs()[1:]:
        yield Out(index, on(*others[index]))
    yield Product(op.node, 2 * prod(op.out_shape()) * keys, Label((0,), values))


def _why_not(op: Op) -> str | None:
    """What keeps all that an operator reads: only computed queries, keys and values that stand apart are followed."""
    if not all(op.has(i) and len(op.shape(i)) == 3 for i in range(3)):
        return f"{op.node.op_type} reads queries, keys and values in one tensor, or of a past"
    if any(op.constant(i) for i in range(3)):
        return f"{op.node.op_type} reads constant queries, keys or values"
    quantised = op.node.op_type == "GroupQueryAttention" and (op.has(12) or op.has(13))
    return f"{op.node.op_type} keeps a quantised past" if quantised else None


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: Op) -> Facts:
    """Queries, keys and values (batch, positions, heads · size) lose the same heads."""
    if reason := _why_not(op):
        yield from fix(tuple(x for i in range(len(op.node.inputs)) for x in op.labels(i)), reason)
        return
    yield from same_heads(op, [op.attr("num_heads")] * 3)
    heads = whole_heads(op.atoms(2), op.attr("num_heads"))[0]
    channels = np.concatenate([op.atoms(2, i) for i in range(3)])
    if op.constant(3):
        yield Param(3, Label((0,), channels))
    elif op.has(3):
        yield Fixed(channels, "MultiHeadAttention adds a computed bias")
    yield Size(op.node, "num_heads", None, Label((0,), heads))
    yield from per_head(op, 5, heads, 1, "the bias")
    for index in (6, 7):
        yield from per_head(op, index, heads, 1, "the past")
    yield from _attended(op, op.atoms(2, 2), dict.fromkeys((1, 2, 3), (1, heads)), op.shape(1)[1])


@rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(op: Op) -> Facts:
    """A head of keys and values goes with all heads of queries that read it."""
    if reason := _why_not(op):
        yield from fix(tuple(x for i in range(len(op.node.inputs)) for x in op.labels(i)), reason)
        return
    counts = [op.attr("num_heads"), op.attr("kv_num_heads"), op.attr("kv_num_heads")]
    yield from same_heads(op, counts)
    heads, groups = (whole_heads(op.atoms(2, i), counts[i])[0] for i in (0, 1))
    yield Size(op.node, "num_heads", None, Label((0,), heads))
    yield Size(op.node, "kv_num_heads", None, Label((0,), groups))
    for index in (3, 4):
        yield from per_head(op, index, groups, 1, "the past")
    yield from per_head(op, 10, heads, 1, "the bias")
    yield from per_head(op, 11, heads, 0, "the sinks")
    yield from _attended(op, op.atoms(2), {1: (1, groups), 2: (1, groups), 3: (1, heads)}, op.shape(1)[1])
