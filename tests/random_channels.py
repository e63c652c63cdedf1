"""Steps of random graphs that move channels about: cut, shuffled, picked, mixed, traded for space."""

import math

import numpy as np
from graph_builder import GraphBuilder, Value
from hypothesis import strategies as st
from random_draws import LARGEST_SIZE, MOST_CHANNELS, WIDTHS, Draw, pick, pick_two


def split_and_recombine(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    x = builder.with_channels(x, max(x.channels, 2))
    cut = draw(st.integers(1, x.channels - 1))
    sizes = builder.integers(cut, x.channels - cut)
    names = builder.nodes_out("Split", 2, x.name, sizes, axis=1)
    left, right = Value(names[0], cut, x.size), Value(names[1], x.channels - cut, x.size)
    left = Value(builder.node("Relu", left.name), left.channels, x.size) if draw(st.booleans()) else left
    if left.channels == right.channels and draw(st.booleans()):
        return Value(builder.node("Mul", left.name, right.name), cut, x.size)
    right = builder.conv(right, right.channels) if draw(st.booleans()) else right
    joined = draw(st.permutations([left.name, right.name]))
    return Value(builder.node("Concat", *joined, axis=1), x.channels, x.size)


def slice_channels(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    start = draw(st.integers(0, x.channels - 1))
    stop, step = draw(st.integers(start + 1, x.channels)), draw(st.sampled_from([1, 2]))
    end = draw(st.sampled_from([stop, 2**31 - 1 if stop == x.channels else stop - x.channels]))
    bounds = [builder.integers(value) for value in (start, end, 1, step)]
    return Value(builder.node("Slice", x.name, *bounds), len(range(start, stop, step)), x.size)


def channel_shuffle(draw: Draw, builder: GraphBuilder) -> Value:
    x, groups = pick(draw, builder), draw(st.sampled_from([2, 3]))
    x = builder.with_channels(x, groups * math.ceil(x.channels / groups))
    spread = builder.integers(0, groups, x.channels // groups, x.size, x.size)
    flat = builder.integers(0, draw(st.sampled_from([x.channels, -1])), x.size, x.size)
    swapped = builder.node("Transpose", builder.node("Reshape", x.name, spread), perm=[0, 2, 1, 3, 4])
    return Value(builder.node("Reshape", swapped, flat), x.channels, x.size)


def blocks(draw: Draw, builder: GraphBuilder) -> Value:
    """Four channels to one of twice the size, or one to four of half the size."""
    x, mode = pick(draw, builder), draw(st.sampled_from(["DCR", "CRD"]))
    smaller = x.size % 2 == 0
    if smaller and (2 * x.size > LARGEST_SIZE or draw(st.booleans())):
        x = builder.with_channels(x, min(x.channels, MOST_CHANNELS // 4))
        return Value(builder.node("SpaceToDepth", x.name, blocksize=2), 4 * x.channels, x.size // 2)
    if 2 * x.size > LARGEST_SIZE:
        return x
    x = builder.with_channels(x, 4 * math.ceil(x.channels / 4))
    return Value(builder.node("DepthToSpace", x.name, blocksize=2, mode=mode), x.channels // 4, 2 * x.size)


def einsum(draw: Draw, builder: GraphBuilder) -> Value:
    """A weight over channels, a scale of each, or the mixing of all columns by those of another value."""
    x, other = pick_two(draw, builder)
    kind = draw(st.sampled_from(["nchw,cd->ndhw", "oc,nc...->no...", "nchw,c->nchw", "nchw,nchv->nwv"]))
    width = draw(WIDTHS)
    if kind == "nchw,nchv->nwv":
        scores = builder.node("Einsum", x.name, builder.with_channels(other, x.channels).name, equation=kind)
        weights = builder.node("Softmax", scores, axis=-1)
        return Value(builder.node("Einsum", x.name, weights, equation="nchw,nwv->nchv"), x.channels, x.size)
    if kind == "nchw,c->nchw":
        return Value(
            builder.node("Einsum", x.name, builder.weight("gamma", x.channels), equation=kind), x.channels, x.size
        )
    shape = (x.channels, width) if kind.startswith("n") else (width, x.channels)
    operands = [x.name, builder.weight("w", *shape)]
    name = builder.node("Einsum", *(operands if kind.startswith("n") else operands[::-1]), equation=kind)
    return Value(name, width, x.size)


def gather_channels(draw: Draw, builder: GraphBuilder) -> Value:
    """Channels by a list or a table of indices, some of them more than once."""
    x = pick(draw, builder)
    shape = draw(st.sampled_from([(3,), (2, 2), (2, 3), (1, 4)]))
    count = math.prod(shape)
    picked = draw(st.lists(st.integers(-x.channels, x.channels - 1), min_size=count, max_size=count))
    name = builder.node("Gather", x.name, builder.constant(np.array(picked, np.int64).reshape(shape)), axis=1)
    if len(shape) > 1:
        name = builder.node("Reshape", name, builder.integers(0, -1, x.size, x.size))
    return Value(name, count, x.size)
