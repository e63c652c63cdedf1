"""Multi-head attention as exporters write it out: a step of random graphs."""

from dataclasses import dataclass

import numpy as np
from graph_builder import GraphBuilder, Value
from hypothesis import strategies as st
from random_draws import Draw
from random_tokens import dense, layer_norm, small_map, to_map, to_tokens


@dataclass(frozen=True)
class Heads:
    """`count` heads of `width` channels for queries, of which `shared` each read one head of keys and values."""

    count: int
    shared: int
    width: int

    @property
    def kept(self) -> int:
        """How many heads of keys and values there are."""
        return self.count // self.shared


@st.composite
def heads(draw: Draw) -> Heads:
    shared, kept = draw(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (2, 3)]))
    return Heads(shared * kept, shared, draw(st.sampled_from([1, 2, 3, 4])))


def attention(draw: Draw, builder: GraphBuilder) -> Value:
    """softmax(Q Kᵀ / √d + bias) V over all tokens, projected and added to the input."""
    x, own = small_map(draw, builder), draw(heads())
    tokens = to_tokens(draw, builder, x)
    read = layer_norm(builder, tokens, x.channels) if draw(st.booleans()) else tokens
    queries, keys, values = projected(draw, builder, read, x.channels, own)
    if own.width % 2 == 0 and draw(st.booleans()):
        queries, keys = (rotated(draw, builder, each, x.size**2, own.width) for each in (queries, keys))
    if own.shared > 1:
        keys, values = (repeated(draw, builder, each, x.size**2, own) for each in (keys, values))
    mixed = builder.node("MatMul", scores(draw, builder, queries, keys, x.size**2, own), values)
    joined = joined_heads(draw, builder, builder.node("Transpose", mixed, perm=[0, 2, 1, 3]), read, own)
    out = dense(draw, builder, joined, own.count * own.width, x.channels)
    return to_map(draw, builder, builder.node("Add", tokens, out), x.channels, x.size)


def projected(draw: Draw, builder: GraphBuilder, tokens: str, channels: int, own: Heads) -> list[str]:
    """Queries, keys and values, each (N, heads, tokens, width)."""
    kind = draw(st.sampled_from(["separate", "split"] + (["stacked"] if own.shared == 1 else [])))
    counts = (own.count, own.kept, own.kept)
    if kind == "stacked":
        return stacked(draw, builder, tokens, channels, own)
    widths = [count * own.width for count in counts]
    if kind == "separate":
        flat = [dense(draw, builder, tokens, channels, width) for width in widths]
    else:
        fused = dense(draw, builder, tokens, channels, sum(widths))
        flat = builder.nodes_out("Split", 3, fused, builder.integers(*widths), axis=2)
    return [by_head(draw, builder, each, tokens, (count, own.width)) for each, count in zip(flat, counts, strict=True)]


def by_head(draw: Draw, builder: GraphBuilder, flat: str, tokens: str, sizes: tuple[int, int]) -> str:
    """(N, tokens, heads · width) as (N, heads, tokens, width)."""
    target = heads_target(draw, builder, tokens, sizes)
    return builder.node("Transpose", builder.node("Reshape", flat, target), perm=[0, 2, 1, 3])


def heads_target(draw: Draw, builder: GraphBuilder, tokens: str, sizes: tuple[int, ...]) -> str:
    """A Reshape's target (N, tokens, *sizes): constant, or joined from what Shape tells."""
    one = draw(st.integers(0, len(sizes)))
    ends = [-1 if index == one else size for index, size in enumerate(sizes)]
    if draw(st.booleans()):
        return builder.integers(0, 0, *ends)
    shape = builder.node("Shape", tokens)
    parts = [builder.node("Gather", shape, builder.integers(axis), axis=0) for axis in (0, 1)]
    return builder.node("Concat", *parts, *(builder.integers(end) for end in ends), axis=0)


def stacked(draw: Draw, builder: GraphBuilder, tokens: str, channels: int, own: Heads) -> list[str]:
    """One projection to (3, heads, width), taken apart by Gather or Split."""
    fused = dense(draw, builder, tokens, channels, 3 * own.count * own.width)
    target = heads_target(draw, builder, tokens, (3, own.count, own.width))
    first = builder.node("Transpose", builder.node("Reshape", fused, target), perm=[2, 0, 3, 1, 4])
    if draw(st.booleans()):
        return [builder.node("Gather", first, builder.constant(np.int64(i)), axis=0) for i in range(3)]
    parts = builder.nodes_out("Split", 3, first, builder.integers(1, 1, 1), axis=0)
    return [builder.node("Squeeze", part, builder.integers(0)) for part in parts]


def rotated(draw: Draw, builder: GraphBuilder, x: str, tokens: int, width: int) -> str:
    """Rotary positions: x · cos + (−second half, first half) · sin."""
    half = width // 2
    if draw(st.booleans()):
        first, second = builder.nodes_out("Split", 2, x, builder.integers(half, half), axis=-1)
    else:
        bounds = ((0, half), (half, 2**31 - 1))
        first, second = (builder.node("Slice", x, *(builder.integers(b) for b in (*ends, 3))) for ends in bounds)
    turned = builder.node("Concat", builder.node("Neg", second), first, axis=-1)
    cos, sin = (builder.weight("b", tokens, width) for _ in range(2))
    return builder.node("Add", builder.node("Mul", x, cos), builder.node("Mul", turned, sin))


def repeated(draw: Draw, builder: GraphBuilder, x: str, tokens: int, own: Heads) -> str:
    """Each head of keys or values once for every head of queries that reads it."""
    wide = builder.node("Unsqueeze", x, builder.integers(2))
    ones = draw(st.sampled_from([(1, own.kept, own.shared, tokens, own.width), (1, 1, own.shared, 1, 1)]))
    spread = builder.node("Expand", wide, builder.integers(*ones))
    target = draw(st.sampled_from([(0, own.count, tokens, own.width), (0, -1, tokens, own.width)]))
    return builder.node("Reshape", spread, builder.integers(*target))


def scores(draw: Draw, builder: GraphBuilder, queries: str, keys: str, tokens: int, own: Heads) -> str:
    """(N, heads, tokens, tokens), which sum to one."""
    scale = builder.constant(np.float32(own.width**-0.5))
    product = builder.node("MatMul", queries, builder.node("Transpose", keys, perm=[0, 1, 3, 2]))
    product = builder.node("Mul", product, scale)
    bias = draw(st.sampled_from([(), (own.count, 1, 1), (1, own.count, tokens, tokens), (tokens, tokens)]))
    if bias:
        product = builder.node("Add", product, builder.weight("b", *bias))
    return builder.node("Softmax", product, axis=-1)


def joined_heads(draw: Draw, builder: GraphBuilder, mixed: str, tokens: str, own: Heads) -> str:
    """(N, tokens, heads, width) as (N, tokens, heads · width)."""
    return builder.node("Reshape", mixed, heads_target(draw, builder, tokens, (own.count * own.width,)))
