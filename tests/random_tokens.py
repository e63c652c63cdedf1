"""Steps of random graphs over tokens: a feature map as (N, H·W, C), then attention, gates, norms or recurrence, and back."""

from graph_builder import GraphBuilder, Value
from hypothesis import strategies as st
from random_draws import LARGEST_MAP_OF_TOKENS, WIDTHS, Draw, pick

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def small_map(draw: Draw, builder: GraphBuilder) -> Value:
    """A value with few enough positions for each to be a token."""
    x = pick(draw, builder)
    if x.size <= LARGEST_MAP_OF_TOKENS:
        return x
    name = builder.node("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2])
    return Value(name, x.channels, x.size // 2)


def to_tokens(draw: Draw, builder: GraphBuilder, x: Value) -> str:
    """(N, C, H, W) as (N, H·W, C)."""
    kind = draw(st.sampled_from(["rows first", "channels first", "copied"]))
    if kind == "channels first":
        last = builder.node("Transpose", x.name, perm=[0, 2, 3, 1])
        return builder.node("Reshape", last, builder.integers(0, x.size * x.size, x.channels))
    target = (0, x.channels, x.size * x.size) if kind == "rows first" else (0, 0, -1)
    return builder.node("Transpose", builder.node("Reshape", x.name, builder.integers(*target)), perm=[0, 2, 1])


def to_map(draw: Draw, builder: GraphBuilder, tokens: str, channels: int, size: int) -> Value:
    """(N, H·W, C) as (N, C, H, W)."""
    rows = builder.node("Transpose", tokens, perm=[0, 2, 1])
    target = draw(st.sampled_from([(0, 0, size, size), (-1, channels, size, size), (0, -1, size, size)]))
    return Value(builder.node("Reshape", rows, builder.integers(*target)), channels, size)


def dense(draw: Draw, builder: GraphBuilder, tokens: str, inner: int, outer: int) -> str:
    product = builder.node("MatMul", tokens, builder.weight("w", inner, outer))
    return builder.node("Add", product, builder.weight("b", outer)) if draw(st.booleans()) else product


def layer_norm(builder: GraphBuilder, tokens: str, channels: int) -> str:
    vectors = [builder.weight("gamma", channels), builder.weight("beta", channels)]
    return builder.node("LayerNormalization", tokens, *vectors, axis=-1)


def norm_and_dense(draw: Draw, builder: GraphBuilder) -> Value:
    x, channels = small_map(draw, builder), draw(WIDTHS)
    tokens = layer_norm(builder, to_tokens(draw, builder, x), x.channels)
    return to_map(draw, builder, dense(draw, builder, tokens, x.channels, channels), channels, x.size)


def silu(builder: GraphBuilder, x: str) -> str:
    return builder.node("Mul", x, builder.node("Sigmoid", x))


def gated_feed_forward(draw: Draw, builder: GraphBuilder) -> Value:
    """SwiGLU: gate and value by two projections, or by one that is split."""
    x, width = small_map(draw, builder), draw(WIDTHS)
    tokens = to_tokens(draw, builder, x)
    if draw(st.booleans()):
        both = dense(draw, builder, tokens, x.channels, 2 * width)
        sizes = [builder.integers(width, width)] if draw(st.booleans()) else []
        gate, value = builder.nodes_out("Split", 2, both, *sizes, axis=-1)
    else:
        gate, value = (dense(draw, builder, tokens, x.channels, width) for _ in range(2))
    gated = builder.node("Mul", silu(builder, gate), value)
    back = builder.node("Add", dense(draw, builder, gated, width, x.channels), tokens)
    return to_map(draw, builder, back, x.channels, x.size)


def recurrent(draw: Draw, builder: GraphBuilder) -> Value:
    """A recurrent layer over tokens as steps; its hidden units are the new channels."""
    x, hidden = small_map(draw, builder), draw(st.integers(1, 4))
    kind, direction = draw(st.sampled_from(sorted(GATES))), draw(st.sampled_from(["forward", "bidirectional"]))
    directions, rows = (1 if direction == "forward" else 2), GATES[kind] * hidden
    steps = builder.node("Transpose", to_tokens(draw, builder, x), perm=[1, 0, 2])
    weights = [builder.weight("w", directions, rows, x.channels), builder.weight("w", directions, rows, hidden)]
    weights += [builder.weight("b", directions, 2 * rows)] if draw(st.booleans()) else []
    made = builder.node(kind, steps, *weights, hidden_size=hidden, direction=direction)
    last = builder.node("Transpose", made, perm=[2, 0, 1, 3])  # (N, steps, directions, hidden)
    tokens = builder.node("Reshape", last, builder.integers(0, 0, draw(st.sampled_from([-1, directions * hidden]))))
    return to_map(draw, builder, tokens, directions * hidden, x.size)
