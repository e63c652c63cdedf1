"""More steps of random graphs: branches, quanta, group norms written out, embeddings, masks, pixel shuffles written out."""

import math

import numpy as np
from graph_builder import GraphBuilder, Value
from hypothesis import strategies as st
from random_draws import LARGEST_SIZE, MOST_CHANNELS, WIDTHS, Draw, pick, pick_two

WORDS = 5


def whole_numbers(builder: GraphBuilder) -> str:
    """(N,) an integer below `WORDS` for each image, straight from the input: nothing that is cut may change one."""
    peak = builder.node("ReduceMax", "x", axes=[1, 2, 3], keepdims=0)
    bounds = [builder.constant(np.float32(0)), builder.constant(np.float32(WORDS - 1))]
    return builder.node("Cast", builder.node("Floor", builder.node("Clip", peak, *bounds)), to=7)


def branches(draw: Draw, builder: GraphBuilder) -> Value:
    """If over two convolutions, or one and an activation, of a value outside."""
    x = pick(draw, builder)
    width = x.channels if draw(st.booleans()) else draw(WIDTHS)
    total = builder.node("ReduceMax", whole_numbers(builder), keepdims=0)
    low = builder.node("Less", total, builder.constant(np.int64(draw(st.sampled_from([0, WORDS])))))
    bodies = [builder.body(lambda: branch(draw, builder, x, width)) for _ in range(2)]
    name = builder.node("If", low, then_branch=bodies[0], else_branch=bodies[1])
    return Value(name, width, x.size)


def branch(draw: Draw, builder: GraphBuilder, x: Value, width: int) -> str:
    if width == x.channels and draw(st.booleans()):
        return builder.node(draw(st.sampled_from(["Relu", "Sigmoid"])), x.name)
    made = builder.conv(x, width, draw(st.booleans())).name
    return builder.node("Relu", made) if draw(st.booleans()) else made


def quantised_conv(draw: Draw, builder: GraphBuilder) -> Value:
    """A 1×1 convolution whose weight is in quanta, of one scale or of one a channel."""
    x, width = pick(draw, builder), draw(WIDTHS)
    weight = quanta(draw, builder, (width, x.channels, 1, 1), 0)
    return Value(builder.node("Conv", x.name, weight, builder.weight("b", width)), width, x.size)


def quanta(draw: Draw, builder: GraphBuilder, shape: tuple[int, ...], axis: int) -> str:
    """A weight as int8 with its scale and zero point."""
    numbers = builder.rng.integers(-100, 100, shape).astype(np.int8)
    own = (shape[axis],) if draw(st.booleans()) else ()
    scale = builder.constant((builder.rng.uniform(0.5, 1.5, own) / 100).astype(np.float32))
    zero = builder.constant(builder.rng.integers(-5, 5, own).astype(np.int8))
    return builder.node("DequantizeLinear", builder.constant(numbers), scale, zero, axis=axis)


def group_norm(draw: Draw, builder: GraphBuilder) -> Value:
    """As torch exports it: InstanceNormalization over groups as channels, then scale and shift."""
    x, groups = pick(draw, builder), draw(st.sampled_from([1, 2, 3]))
    x = builder.with_channels(x, groups * math.ceil(x.channels / groups))
    spread = builder.node("Reshape", x.name, builder.integers(0, groups, -1))
    ones, zeros = builder.constant(np.ones(groups, np.float32)), builder.constant(np.zeros(groups, np.float32))
    normal = builder.node("InstanceNormalization", spread, ones, zeros)
    target = builder.node("Shape", x.name) if draw(st.booleans()) else builder.integers(0, x.channels, x.size, x.size)
    scaled = builder.node("Mul", builder.node("Reshape", normal, target), builder.weight("gamma", x.channels, 1, 1))
    return Value(builder.node("Add", scaled, builder.weight("beta", x.channels, 1, 1)), x.channels, x.size)


def embedding(draw: Draw, builder: GraphBuilder) -> Value:
    """A vector of a table for each image, added to all positions or scaling them."""
    x = pick(draw, builder)
    looked_up = builder.node("Gather", builder.weight("b", WORDS, x.channels), whole_numbers(builder), axis=0)
    if draw(st.booleans()):
        spread = builder.node("Unsqueeze", looked_up, builder.integers(2, 3))
    else:
        spread = builder.node("Reshape", looked_up, builder.integers(0, draw(st.sampled_from([-1, 0])), 1, 1))
    return Value(builder.node(draw(st.sampled_from(["Add", "Mul"])), x.name, spread), x.channels, x.size)


def where(draw: Draw, builder: GraphBuilder) -> Value:
    """One of two values by a constant mask of channels or places, or the larger by comparison."""
    x, other = pick_two(draw, builder)
    if draw(st.booleans()):
        second = builder.with_channels(other, x.channels).name
    else:
        second = builder.weight("b", *draw(st.sampled_from([(), (x.channels, 1, 1), (1, 1, 1, x.size)])))
    masks = [(1, x.channels, 1, 1), (x.size, x.size), (x.channels, x.size, x.size)]
    if draw(st.booleans()):
        chosen = builder.node(draw(st.sampled_from(["Greater", "LessOrEqual"])), x.name, second)
    else:
        chosen = builder.constant(builder.rng.random(draw(st.sampled_from(masks))) < 0.5)
    return Value(builder.node("Where", chosen, *draw(st.permutations([x.name, second]))), x.channels, x.size)


def pixel_shuffle(draw: Draw, builder: GraphBuilder) -> Value:
    """Four channels to one of twice the size, by Reshape and Transpose."""
    x = pick(draw, builder)
    if 2 * x.size > LARGEST_SIZE:
        return x
    x = builder.with_channels(x, min(4 * math.ceil(x.channels / 4), MOST_CHANNELS))
    width, size = x.channels // 4, x.size
    first = draw(st.booleans())
    spread = builder.integers(*((-1, width, 2, 2, size, size) if first else (0, 2, 2, width, size, size)))
    perm = [0, 1, 4, 2, 5, 3] if first else [0, 3, 4, 1, 5, 2]
    swapped = builder.node("Transpose", builder.node("Reshape", x.name, spread), perm=perm)
    target = builder.integers(0, draw(st.sampled_from([width, -1])), 2 * size, 2 * size)
    return Value(builder.node("Reshape", swapped, target), width, 2 * size)
