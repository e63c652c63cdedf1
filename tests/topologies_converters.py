"""Small networks as other converters write them, in ONNX text.

tf2onnx (opset 9 heads, NHWC flatten), paddle2onnx (weights in unnamed Constant nodes, biases as Add), keras2onnx
(auto_pad, PRelu), weights behind constant chains, sizes in attributes of old opsets.
"""

from collections.abc import Callable

import numpy as np
import onnx
from graph_text import Weights, batchnorm, integers, model_from_text


def with_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move every initializer into an unnamed Constant node, as paddle2onnx writes them."""
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


def squeeze_excitation() -> onnx.ModelProto:
    """MobileNetV3 as paddle2onnx writes it: biases through a Reshape, HardSwish in four nodes, x + x·gate."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w)
    n0 = BatchNormalization (c0, n0_gamma, n0_beta, n0_mean, n0_var)
    a0 = Add (n0, three)
    l0 = Clip (a0, zero, six)
    m0 = Mul (n0, l0)
    h0 = Div (m0, six)
    d = Conv <group=12, pads=[2,2,2,2]> (h0, d_w)
    db = Reshape (d_b, bias_shape)
    ds = Add (d, db)
    g = GlobalAveragePool (ds)
    s1 = Conv (g, s1_w)
    sb1 = Reshape (s1_b, squeeze_shape)
    s1a = Add (s1, sb1)
    i1 = Identity (s1a)
    s1r = Relu (i1)
    s2 = Conv (s1r, s2_w, s2_b)
    gate = HardSigmoid <alpha=0.2, beta=0.5> (s2)
    scaled = Mul (ds, gate)
    sum = Add (ds, scaled)
    affine = Mul (learned_scale, sum)
    shifted = Add (affine, learned_shift)
    e = Conv (shifted, e_w)
    r = Relu (e)
    q = GlobalAveragePool (r)
    dims = Shape (q)
    dims32 = Cast <to=6> (dims)
    batch32 = Slice (dims32, slice_start, slice_end, slice_start, slice_end)
    batch = Cast <to=7> (batch32)
    width = Cast <to=7> (width32)
    target = Concat <axis=-1> (batch, width)
    f = Reshape (q, target)
    m = MatMul (f, fc_w)
    v = Add (m, fc_b)
    soft = Softmax <axis=1> (v)
    y = Identity (soft)
    """
    weights: Weights = {"c0_w": (12, 3, 3, 3), "d_w": (12, 1, 5, 5), "d_b": (12,), "bias_shape": integers(1, 12, 1, 1)}
    weights |= {"s1_w": (4, 12, 1, 1), "s1_b": (4,), "squeeze_shape": integers(1, 4, 1, 1), "s2_w": (12, 4, 1, 1)}
    weights |= {
        "s2_b": (12,),
        "e_w": (16, 12, 1, 1),
        "fc_w": (16, 4),
        "fc_b": (4,),
        "width32": np.array([16], np.int32),
    }
    weights |= {"slice_start": integers(0), "slice_end": integers(1), **batchnorm("n0", 12)}
    weights |= {name: np.float32(value) for name, value in (("zero", 0), ("three", 3), ("six", 6))}
    weights |= {"learned_scale": np.array([0.8], np.float32), "learned_shift": np.array([0.1], np.float32)}
    return with_constant_nodes(model_from_text("(float[N,3,12,12] x) => (float[N,4] y)", body, weights, 11, 7))


def tensorflow_vgg() -> onnx.ModelProto:
    """NHWC input and NHWC flatten as tf2onnx writes them; C·H·W stands as int32 inside the computed Reshape shape."""
    body = """
    t = Transpose <perm=[0,3,1,2]> (x)
    c0 = Conv <pads=[1,1,1,1]> (t, c0_w, c0_b)
    r0 = Relu (c0)
    p0 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r0)
    c1 = Conv <pads=[1,1,1,1]> (p0, c1_w, c1_b)
    r1 = Relu (c1)
    p1 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r1)
    nhwc = Transpose <perm=[0,2,3,1]> (p1)
    dims = Shape (p1)
    permuted = Gather (dims, permutation)
    dims32 = Cast <to=6> (permuted)
    batch = Slice (dims32, start, end, start)
    target32 = Concat <axis=0> (batch, features)
    target = Cast <to=7> (target32)
    flat = Reshape (nhwc, target)
    m0 = MatMul (flat, f0_w)
    a0 = Add (m0, f0_b)
    h0 = Relu (a0)
    scaled = Mul (h0, n0_gamma)
    shifted = Add (scaled, n0_beta)
    m1 = MatMul (shifted, f1_w)
    a1 = Add (f1_b, m1)
    y = Softmax (a1)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), "c1_w": (12, 8, 3, 3), "c1_b": (12,), "f0_w": (192, 14)}
    weights |= {"f0_b": (14,), "n0_gamma": (14,), "n0_beta": (14,), "f1_w": (14, 4), "f1_b": (4,)}
    weights |= {"permutation": integers(0, 2, 3, 1), "start": integers(0), "end": integers(1)}
    weights |= {"features": np.array([192], np.int32)}
    return model_from_text("(float[N,16,16,3] x) => (float[N,4] y)", body, weights, 13, 7)


def tensorflow_head() -> onnx.ModelProto:
    """Opset 9: a pooled NCHW tensor reshaped to NHWC, then flattened; the width stands in both constants, batch −1."""
    body = """
    t = Transpose <perm=[0,3,1,2]> (x)
    c0 = Conv <pads=[0,0,1,1], strides=[2,2]> (t, c0_w, c0_b)
    r0 = Relu (c0)
    c1 = Conv <pads=[1,1,1,1]> (r0, c1_w, c1_b)
    s = Add (c1, r0)
    pool = AveragePool <kernel_shape=[4,4]> (s)
    q = Reshape (pool, nhwc)
    f = Reshape (q, flat)
    m = MatMul (f, fc_w)
    a = Add (m, fc_b)
    y = Softmax <axis=1> (a)
    """
    weights: Weights = {"c0_w": (12, 3, 3, 3), "c0_b": (12,), "c1_w": (12, 12, 3, 3), "c1_b": (12,)}
    weights |= {"nhwc": integers(-1, 1, 1, 12), "flat": integers(-1, 12), "fc_w": (12, 3), "fc_b": (3,)}
    return model_from_text("(float[N,8,8,3] x) => (float[N,3] y)", body, weights, 9, 4)


def keras_prelu() -> onnx.ModelProto:
    """MTCNN's R-Net: PRelu on rank 4 and rank 2, auto_pad, NHWC Flatten, two outputs."""
    body = """
    t = Transpose <perm=[0,3,1,2]> (x)
    c0 = Conv <auto_pad="VALID"> (t, c0_w, c0_b)
    r0 = PRelu (c0, p0_slope)
    p0 = MaxPool <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"> (r0)
    c1 = Conv <auto_pad="SAME_UPPER"> (p0, c1_w, c1_b)
    r1 = PRelu (c1, p1_slope)
    nhwc = Transpose <perm=[0,2,3,1]> (r1)
    f = Flatten <axis=1> (nhwc)
    m = MatMul (f, f_w)
    a = Add (m, f_b)
    h = PRelu (a, f_slope)
    mb = MatMul (h, box_w)
    box = Add (mb, box_b)
    mc = MatMul (h, class_w)
    ac = Add (mc, class_b)
    class = Softmax <axis=1> (ac)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), "p0_slope": (1, 8, 1, 1), "c1_w": (10, 8, 2, 2)}
    weights |= {"c1_b": (10,), "p1_slope": (10, 1, 1), "f_w": (90, 12), "f_b": (12,), "f_slope": (12,)}
    weights |= {"box_w": (12, 4), "box_b": (4,), "class_w": (12, 2), "class_b": (2,)}
    return model_from_text("(float[N,8,8,3] x) => (float[N,4] box, float[N,2] class)", body, weights, 12, 7)


def perceptron() -> onnx.ModelProto:
    """Weights in Constant nodes and behind Identity, Cast and Transpose; Gemm with transA and alpha; tied ends."""
    body = """
    w0 = Identity (w0_raw_w)
    m0 = MatMul (x, w0)
    a0 = Add (m0, b0_b)
    h0 = Tanh (a0)
    w1 = Transpose <perm=[1,0]> (w1_raw_w)
    m1 = MatMul (h0, w1)
    a1 = Add (b1_b, m1)
    h1 = Relu (a1)
    w2 = Cast <to=1> (w2_half)
    g2 = Gemm <alpha=0.5, beta=2.0> (h1, w2, b2_b)
    h2 = Relu (g2)
    column = Transpose <perm=[1,0]> (h2)
    g3 = Gemm <transA=1, transB=1> (column, w3_w, b3_b)
    s = Add (g3, h2)
    wt = Transpose <perm=[1,0]> (w0_raw_w)
    y = MatMul (s, wt)
    """
    weights: Weights = {"w0_raw_w": (12, 10), "b0_b": (10,), "w1_raw_w": (14, 10), "b1_b": (14,), "b2_b": (10,)}
    half = np.random.default_rng(5).standard_normal((14, 10)).astype(np.float16)
    weights |= {"w2_half": half / np.float16(4), "w3_w": (10, 10), "b3_b": (1, 10)}
    return with_constant_nodes(model_from_text("(float[N,12] x) => (float[N,12] y)", body, weights))


def axis_play() -> onnx.ModelProto:
    """Pad, Slice of channels (steps, negative bounds), Squeeze, Unsqueeze, Dropout, ReduceSum, Max, 1-D Conv."""
    body = """
    c0 = Conv <pads=[1,1]> (x, c0_w, c0_b)
    r0 = Relu (c0)
    p = Pad (r0, pads)
    c1 = Conv <pads=[0,0]> (p, c1_w, c1_b)
    even = Slice (c1, zero, far, one, two)
    odd = Slice (c1, one, far, one, two)
    big = Max (even, odd)
    tail = Slice (r0, minus4, far, one)
    d, mask = Dropout (tail)
    k = Concat <axis=1> (big, d)
    u = Unsqueeze (k, two)
    c2 = Conv <pads=[0,1,0,1]> (u, c2_w, c2_b)
    s = Squeeze (c2, two)
    w = ReduceSum <keepdims=0> (s, two)
    n = Sub (w, fc_b)
    y = Gemm (n, fc_w, y_b)
    """
    weights: Weights = {"c0_w": (12, 4, 3), "c0_b": (12,), "pads": integers(0, 0, 1, 0, 0, 1), "c1_w": (16, 12, 3)}
    weights |= {"c1_b": (16,), "zero": integers(0), "one": integers(1), "two": integers(2), "minus4": integers(-4)}
    weights |= {
        "far": integers(2**31),
        "c2_w": (10, 12, 1, 3),
        "c2_b": (10,),
        "fc_b": (10,),
        "fc_w": (10, 5),
        "y_b": (5,),
    }
    return model_from_text("(float[N,4,16] x) => (float[N,5] y)", body, weights, 13)


def old_opset() -> onnx.ModelProto:
    """Opset 9: sizes in attributes (Split, Slice, Squeeze, Unsqueeze, Pad, Clip, Dropout)."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, c0_b)
    r0 = Clip <min=0.0, max=6.0> (c0)
    a, b, c = Split <axis=1, split=[4,4,4]> (r0)
    ab = Mul (a, b)
    k = Concat <axis=1> (ab, c)
    p = Pad <pads=[0,0,1,1,0,0,1,1], mode="reflect"> (k)
    c1 = Conv (p, c1_w, c1_b)
    s = Slice <axes=[1], starts=[2], ends=[10]> (c1)
    d = Dropout <ratio=0.3> (s)
    g = ReduceMean <axes=[2,3], keepdims=1> (d)
    q = Squeeze <axes=[2,3]> (g)
    u = Unsqueeze <axes=[1]> (q)
    f = Flatten <axis=1> (u)
    y = Gemm <transB=1> (f, fc_w, fc_b)
    """
    weights: Weights = {"c0_w": (12, 3, 3, 3), "c0_b": (12,), "c1_w": (10, 8, 3, 3), "c1_b": (10,)}
    weights |= {"fc_w": (4, 8), "fc_b": (4,)}
    return model_from_text("(float[N,3,8,8] x) => (float[N,4] y)", body, weights, 9, 4)


CONVERTER_TOPOLOGIES: dict[str, Callable[[], onnx.ModelProto]] = {
    "squeeze-excitation-text": squeeze_excitation,
    "tensorflow-vgg-text": tensorflow_vgg,
    "tensorflow-head-text": tensorflow_head,
    "keras-prelu-text": keras_prelu,
    "perceptron-text": perceptron,
    "axis-play-text": axis_play,
    "old-opset-text": old_opset,
}
