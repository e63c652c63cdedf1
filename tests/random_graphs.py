"""A hypothesis strategy for small random convolutional graphs, drawn from a table of building steps.

Each step reads one or two earlier values (shrinking towards the newest) and appends layers that fit. Weights come from
a drawn seed, so that a graph is a function of the draw.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from graph_builder import GraphBuilder, Value, window_size
from hypothesis import strategies as st
from random_attention import attention
from random_channels import blocks, channel_shuffle, einsum, gather_channels, slice_channels, split_and_recombine
from random_draws import LARGEST_SIZE, MOST_CHANNELS, WIDTHS, Draw, pick, pick_two, windows
from random_layers import branches, embedding, group_norm, pixel_shuffle, quantised_conv, where
from random_tokens import gated_feed_forward, norm_and_dense, recurrent

Step = Callable[[Draw, GraphBuilder], Value]
Head = Callable[[Draw, GraphBuilder], str]


def conv(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    group = draw(st.sampled_from([group for group in (1, 2, 3, 4) if x.channels % group == 0]))
    window = draw(windows(x.size, (3, 1, 5)))
    return builder.conv(x, group * draw(WIDTHS), draw(st.booleans()), group, **window)


def depthwise(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    multiplier = draw(st.sampled_from([1, 2] if 2 * x.channels <= MOST_CHANNELS else [1]))
    window = draw(windows(x.size, (3, 5)))
    return builder.conv(x, x.channels * multiplier, draw(st.booleans()), x.channels, **window)


def conv_transpose(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    group = draw(st.sampled_from([group for group in (1, 2, 3) if x.channels % group == 0]))
    kernel, stride = draw(st.sampled_from([(2, 2), (3, 1), (3, 2)] if 2 * x.size < LARGEST_SIZE else [(3, 1)]))
    width = draw(st.integers(1, 4))
    inputs = [x.name, builder.weight("w", x.channels, width, kernel, kernel), builder.weight("b", group * width)]
    pad = (kernel - 1) // 2
    name = builder.node("ConvTranspose", *inputs, group=group, strides=[stride] * 2, pads=[pad] * 4)
    return Value(name, group * width, (x.size - 1) * stride + kernel - 2 * pad)


def batch_norm(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    vectors = [builder.weight(kind, x.channels) for kind in ("gamma", "beta", "mean", "var")]
    return Value(builder.node("BatchNormalization", x.name, *vectors), x.channels, x.size)


def activation(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    kind = draw(st.sampled_from(["Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "PRelu", "Clip", "Softplus"]))
    extra = []
    if kind == "PRelu":
        extra = [builder.weight("slope", x.channels, 1, 1)]
    if kind == "Clip":
        extra = [builder.constant(np.float32(0)), builder.constant(np.float32(6))]
    return Value(builder.node(kind, x.name, *extra), x.channels, x.size)


def arithmetic_with_constant(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    kind = draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
    shape = draw(st.sampled_from([(1, x.channels, 1, 1), (x.channels, 1, 1), (1,), ()]))
    operands = [x.name, builder.weight("gamma", *shape)]
    reverse = kind != "Div" and draw(st.booleans())
    return Value(builder.node(kind, *(operands[::-1] if reverse else operands)), x.channels, x.size)


def residual(draw: Draw, builder: GraphBuilder) -> Value:
    x, shortcut = pick_two(draw, builder)
    kind = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Sum"]))
    name = builder.node(kind, x.name, builder.with_channels(shortcut, x.channels).name)
    return Value(name, x.channels, x.size)


def concat(draw: Draw, builder: GraphBuilder) -> Value:
    x, other = pick_two(draw, builder)
    narrow = builder.with_channels(other, max(1, min(other.channels, MOST_CHANNELS - x.channels)))
    parts = draw(st.permutations([x, narrow]))
    axis = draw(st.sampled_from([1, -3]))
    name = builder.node("Concat", *(part.name for part in parts), axis=axis)
    return Value(name, x.channels + narrow.channels, x.size)


def squeeze_excitation(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    if draw(st.booleans()):
        pooled = builder.node("GlobalAveragePool", x.name)
    else:
        pooled = builder.node("ReduceMean", x.name, axes=[2, 3], keepdims=1)
    squeezed = builder.conv(Value(pooled, x.channels, 1), draw(st.integers(1, 4)))
    active = Value(builder.node("Relu", squeezed.name), squeezed.channels, 1)
    kind = draw(st.sampled_from(["HardSigmoid", "Sigmoid"]))
    gate = builder.node(kind, builder.conv(active, x.channels).name)
    return Value(builder.node("Mul", *draw(st.permutations([x.name, gate]))), x.channels, x.size)


def pool(draw: Draw, builder: GraphBuilder) -> Value:
    x, kind = pick(draw, builder), draw(st.sampled_from(["MaxPool", "AveragePool"]))
    if any(node.op_type == "Pad" and x.name in node.output for node in builder.nodes):
        # onnxruntime fuses Pad into the pool and then refuses pads as large as the kernel.
        x = Value(builder.node("Relu", x.name), x.channels, x.size)
    window = draw(windows(x.size, (3, 2)).filter(lambda window: window["dilation"] == 1))
    kernel, stride, pad = window["kernel"], window["stride"], window["pad"]
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    return Value(builder.node(kind, x.name, **attributes), x.channels, window_size(x.size, kernel, stride, 1, pad))


def pad(draw: Draw, builder: GraphBuilder) -> Value:
    x = pick(draw, builder)
    mode = draw(st.sampled_from(["constant", "edge", "reflect"] if x.size > 1 else ["constant", "edge"]))
    pads = builder.integers(0, 0, 1, 1, 0, 0, 1, 1)
    extra = [builder.constant(np.float32(0.5))] if mode == "constant" and draw(st.booleans()) else []
    return Value(builder.node("Pad", x.name, pads, *extra, mode=mode), x.channels, x.size + 2)


def upsample(draw: Draw, builder: GraphBuilder) -> Value:
    x, mode = pick(draw, builder), draw(st.sampled_from(["nearest", "linear"]))
    factor = 2 if 2 * x.size <= LARGEST_SIZE else 1
    scales = builder.constant(np.array([1, 1, factor, factor], np.float32))
    return Value(builder.node("Resize", x.name, "", scales, mode=mode), x.channels, x.size * factor)


def matmul_over_channels_last(draw: Draw, builder: GraphBuilder) -> Value:
    x, channels = pick(draw, builder), draw(WIDTHS)
    last = builder.node("Transpose", x.name, perm=[0, 2, 3, 1])
    product = builder.node("MatMul", last, builder.weight("w", x.channels, channels))
    if draw(st.booleans()):
        product = builder.node("Add", builder.weight("b", channels), product)
    return Value(builder.node("Transpose", product, perm=[0, 3, 1, 2]), channels, x.size)


def flattened(draw: Draw, builder: GraphBuilder, x: Value) -> str:
    """`x` as (N, features), by Flatten or by Reshape to a constant or to a computed shape."""
    kind = draw(st.sampled_from(["Flatten", "constant", "computed"]))
    if kind == "Flatten":
        return builder.node("Flatten", x.name)
    if kind == "constant":
        return builder.node("Reshape", x.name, builder.integers(0, x.channels * x.size * x.size))
    batch = builder.node("Gather", builder.node("Shape", x.name), builder.constant(np.int64(0)), axis=0)
    target = [builder.node("Unsqueeze", batch, builder.integers(0)), builder.integers(-1)]
    return builder.node("Reshape", x.name, builder.node("Concat", *target, axis=0))


def flatten_gemm(draw: Draw, builder: GraphBuilder) -> str:
    x = builder.values[-1]
    features = x.channels * x.size * x.size
    hidden = draw(WIDTHS)
    inner = builder.node("Gemm", flattened(draw, builder, x), builder.weight("w", features, hidden))
    bias = builder.weight("b", 3)
    return builder.node("Gemm", builder.node("Relu", inner), builder.weight("w", 3, hidden), bias, transB=1)


def pool_squeeze_gemm(draw: Draw, builder: GraphBuilder) -> str:
    x = builder.values[-1]
    pooled = builder.node(draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"])), x.name)
    flat = builder.node("Squeeze", pooled, builder.integers(2, 3))
    return builder.node("Gemm", flat, builder.weight("w", 3, x.channels), builder.weight("b", 3), transB=1)


def mean_matmul(draw: Draw, builder: GraphBuilder) -> str:
    x = builder.values[-1]
    keepdims = draw(st.sampled_from([0, 1]))
    mean = builder.node("ReduceMean", x.name, axes=[2, 3], keepdims=keepdims)
    flat = builder.node("Flatten", mean, axis=1) if keepdims else mean
    product = builder.node("MatMul", flat, builder.weight("w", x.channels, 3))
    return builder.node("Softmax", builder.node("Add", product, builder.weight("b", 3)), axis=-1)


def dense_prediction(draw: Draw, builder: GraphBuilder) -> str:
    return builder.conv(builder.values[-1], 2, draw(st.booleans())).name


STEPS: dict[str, Step] = {
    "conv": conv,
    "batch norm": batch_norm,
    "activation": activation,
    "depthwise": depthwise,
    "residual": residual,
    "concat": concat,
    "split and recombine": split_and_recombine,
    "slice of channels": slice_channels,
    "channel shuffle": channel_shuffle,
    "squeeze and excitation": squeeze_excitation,
    "arithmetic with a constant": arithmetic_with_constant,
    "pool": pool,
    "pad": pad,
    "upsample": upsample,
    "conv transpose": conv_transpose,
    "matmul over channels last": matmul_over_channels_last,
    "blocks of channels": blocks,
    "einsum": einsum,
    "gather of channels": gather_channels,
    "attention": attention,
    "norm and dense over tokens": norm_and_dense,
    "gated feed forward": gated_feed_forward,
    "recurrent": recurrent,
    "branches": branches,
    "quantised conv": quantised_conv,
    "group norm written out": group_norm,
    "embedding": embedding,
    "where": where,
    "pixel shuffle written out": pixel_shuffle,
}
HEADS: dict[str, Head] = {
    "pool, squeeze, gemm": pool_squeeze_gemm,
    "flatten, gemm": flatten_gemm,
    "mean, matmul": mean_matmul,
    "dense prediction": dense_prediction,
}


@st.composite
def random_graphs(
    draw: Draw,
    steps: Sequence[str] = tuple(STEPS),
    heads: Sequence[str] = tuple(HEADS),
    min_steps: int = 3,
    max_steps: int = 14,
) -> onnx.ModelProto:
    """Opset-17 models of one input `x` (N, 3, 8, 8) and one output, of `steps` and one of `heads` by name."""
    builder = GraphBuilder(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    builder.values.append(builder.conv(Value("x", 3, 8), draw(WIDTHS), kernel=3, pad=1))
    for name in draw(st.lists(st.sampled_from(list(steps)), min_size=min_steps, max_size=max_steps)):
        builder.values.append(STEPS[name](draw, builder))
    return builder.model(HEADS[draw(st.sampled_from(list(heads)))](draw, builder))
