"""Small networks written as ONNX text, with seeded weights: the suite has value without torch."""

from collections.abc import Callable

import numpy as np
import onnx
from graph_text import Weights, batchnorm, integers, model_from_text


def resnet() -> onnx.ModelProto:
    body = """
    s = Conv <pads=[1,1,1,1]> (x, stem_w)
    sn = BatchNormalization (s, n0_gamma, n0_beta, n0_mean, n0_var)
    h0 = Relu (sn)
    a = Conv <pads=[1,1,1,1]> (h0, a_w)
    an = BatchNormalization (a, n1_gamma, n1_beta, n1_mean, n1_var)
    ar = Relu (an)
    b = Conv <pads=[1,1,1,1]> (ar, b_w)
    bn = BatchNormalization (b, n2_gamma, n2_beta, n2_mean, n2_var)
    r1 = Add (bn, h0)
    h1 = Relu (r1)
    c = Conv <pads=[1,1,1,1], strides=[2,2]> (h1, c_w)
    cn = BatchNormalization (c, n3_gamma, n3_beta, n3_mean, n3_var)
    cr = Relu (cn)
    d = Conv <pads=[1,1,1,1]> (cr, d_w, d_b)
    p = Conv <strides=[2,2]> (h1, p_w)
    pn = BatchNormalization (p, n4_gamma, n4_beta, n4_mean, n4_var)
    r2 = Add (d, pn)
    h2 = Relu (r2)
    g = GlobalAveragePool (h2)
    f = Flatten (g)
    y = Gemm <transB=1> (f, fc_w, fc_b)
    """
    weights: Weights = {"stem_w": (8, 3, 3, 3), "a_w": (10, 8, 3, 3), "b_w": (8, 10, 3, 3), "c_w": (12, 8, 3, 3)}
    weights |= {"d_w": (16, 12, 3, 3), "d_b": (16,), "p_w": (16, 8, 1, 1), "fc_w": (10, 16), "fc_b": (10,)}
    for index, channels in enumerate((8, 10, 8, 12, 16)):
        weights |= batchnorm(f"n{index}", channels)
    return model_from_text("(float[N,3,16,16] x) => (float[N,10] y)", body, weights)


def vgg() -> onnx.ModelProto:
    """Flatten over C·H·W into two Gemm layers, one with the weight as (inputs, outputs)."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, c0_b)
    n0 = BatchNormalization (c0, n_gamma, n_beta, n_mean, n_var)
    r0 = Relu (n0)
    p0 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r0)
    c1 = Conv <pads=[1,1,1,1]> (p0, c1_w, c1_b)
    r1 = Relu (c1)
    p1 = MaxPool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (r1)
    f = Flatten (p1)
    g0 = Gemm (f, f0_w, f0_b)
    h0 = Relu (g0)
    y = Gemm <transB=1> (h0, f1_w, f1_b)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), **batchnorm("n", 8), "c1_w": (12, 8, 3, 3), "c1_b": (12,)}
    weights |= {"f0_w": (192, 14), "f0_b": (14,), "f1_w": (5, 14), "f1_b": (5,)}
    return model_from_text("(float[N,3,16,16] x) => (float[N,5] y)", body, weights)


def inception() -> onnx.ModelProto:
    """Four branches of different depth, one an average pool, joined twice: by Concat, then by Concat with a MaxPool."""
    body = """
    stem = Conv <pads=[1,1,1,1]> (x, stem_w, stem_b)
    h = Relu (stem)
    a = Conv (h, a_w, a_b)
    ar = Relu (a)
    b0 = Conv (h, b0_w, b0_b)
    b0r = Relu (b0)
    b1 = Conv <pads=[2,2,2,2]> (b0r, b1_w, b1_b)
    b1r = Relu (b1)
    c0 = Conv <pads=[0,1,0,1]> (h, c0_w, c0_b)
    c1 = Conv <pads=[1,0,1,0]> (c0, c1_w)
    c1n = BatchNormalization (c1, n_gamma, n_beta, n_mean, n_var)
    c1r = Relu (c1n)
    d0 = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (h)
    d1 = Conv (d0, d1_w, d1_b)
    k = Concat <axis=1> (ar, b1r, c1r, d1)
    e = Conv <strides=[2,2], pads=[1,1,1,1]> (k, e_w, e_b)
    m = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (k)
    j = Concat <axis=1> (m, e)
    g = GlobalAveragePool (j)
    f = Flatten (g)
    y = Gemm <transB=1> (f, fc_w, fc_b)
    """
    weights: Weights = {"stem_w": (8, 3, 3, 3), "stem_b": (8,), "a_w": (6, 8, 1, 1), "a_b": (6,), "b0_w": (5, 8, 1, 1)}
    weights |= {"b0_b": (5,), "b1_w": (8, 5, 5, 5), "b1_b": (8,), "c0_w": (6, 8, 1, 3), "c0_b": (6,)}
    weights |= {"c1_w": (7, 6, 3, 1), **batchnorm("n", 7), "d1_w": (4, 8, 1, 1), "d1_b": (4,), "e_w": (10, 25, 3, 3)}
    weights |= {"e_b": (10,), "fc_w": (5, 35), "fc_b": (5,)}
    return model_from_text("(float[N,3,12,12] x) => (float[N,5] y)", body, weights)


def mobilenet_v2() -> onnx.ModelProto:
    """Inverted residuals: expand, depthwise, project without activation; ReLU6 as Clip."""
    body = """
    stem = Conv <pads=[1,1,1,1], strides=[2,2]> (x, stem_w, stem_b)
    h = Clip (stem, zero, six)
    e0 = Conv (h, e0_w)
    e0n = BatchNormalization (e0, n0_gamma, n0_beta, n0_mean, n0_var)
    e0r = Clip (e0n, zero, six)
    d0 = Conv <group=16, pads=[1,1,1,1]> (e0r, d0_w)
    d0n = BatchNormalization (d0, n1_gamma, n1_beta, n1_mean, n1_var)
    d0r = Clip (d0n, zero, six)
    p0 = Conv (d0r, p0_w, p0_b)
    s = Add (p0, h)
    e1 = Conv (s, e1_w, e1_b)
    e1r = Clip (e1, , six)
    d1 = Conv <group=12, pads=[1,1,1,1], strides=[2,2]> (e1r, d1_w, d1_b)
    p1 = Conv (d1, p1_w, p1_b)
    last = Conv (p1, last_w, last_b)
    r = Clip (last, zero, six)
    g = GlobalAveragePool (r)
    q = Reshape (g, flat)
    y = Gemm <transB=1> (q, fc_w, fc_b)
    """
    weights: Weights = {"stem_w": (8, 3, 3, 3), "stem_b": (8,), "e0_w": (16, 8, 1, 1), "d0_w": (16, 1, 3, 3)}
    weights |= {"p0_w": (8, 16, 1, 1), "p0_b": (8,), "e1_w": (12, 8, 1, 1), "e1_b": (12,), "d1_w": (24, 1, 3, 3)}
    weights |= {"d1_b": (24,), "p1_w": (10, 24, 1, 1), "p1_b": (10,), "last_w": (16, 10, 1, 1), "last_b": (16,)}
    weights |= {"fc_w": (5, 16), "fc_b": (5,), "zero": np.float32(0), "six": np.float32(6), "flat": integers(-1, 16)}
    weights |= batchnorm("n0", 16) | batchnorm("n1", 16)
    return model_from_text("(float[N,3,12,12] x) => (float[N,5] y)", body, weights)


def convnext() -> onnx.ModelProto:
    """Depthwise, LayerNormalization and Linear layers in NHWC, GELU by Erf, layer scale, residual."""
    body = """
    h = Conv <strides=[2,2]> (x, stem_w, stem_b)
    d = Conv <group=8, pads=[1,1,1,1]> (h, d_w, d_b)
    t = Transpose <perm=[0,2,3,1]> (d)
    n = LayerNormalization <axis=-1, epsilon=0.00001> (t, n_gamma, n_beta)
    m0 = MatMul (n, m0_w)
    a0 = Add (m0, m0_b)
    z = Div (a0, root)
    e = Erf (z)
    o = Add (e, one)
    w = Mul (a0, o)
    act = Mul (w, half)
    m1 = MatMul (act, m1_w)
    a1 = Add (m1, m1_b)
    scaled = Mul (scale_gamma, a1)
    back = Transpose <perm=[0,3,1,2]> (scaled)
    s = Add (back, h)
    down = Conv <strides=[2,2]> (s, down_w, down_b)
    g = ReduceMean <axes=[-2,-1], keepdims=0> (down)
    y = Gemm <transB=1> (g, fc_w, fc_b)
    """
    weights: Weights = {"stem_w": (8, 3, 2, 2), "stem_b": (8,), "d_w": (8, 1, 3, 3), "d_b": (8,), "n_gamma": (8,)}
    weights |= {"n_beta": (8,), "m0_w": (8, 20), "m0_b": (20,), "m1_w": (20, 8), "m1_b": (8,), "scale_gamma": (8,)}
    weights |= {"down_w": (12, 8, 2, 2), "down_b": (12,), "fc_w": (5, 12), "fc_b": (5,), "one": np.float32(1)}
    weights |= {"root": np.float32(2**0.5), "half": np.float32(0.5)}
    return model_from_text("(float[N,3,16,16] x) => (float[N,5] y)", body, weights)


def densenet() -> onnx.ModelProto:
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, c0_b)
    n1 = BatchNormalization (c0, n1_gamma, n1_beta, n1_mean, n1_var)
    r1 = Relu (n1)
    c1 = Conv <pads=[1,1,1,1]> (r1, c1_w)
    k1 = Concat <axis=1> (c0, c1)
    n2 = BatchNormalization (k1, n2_gamma, n2_beta, n2_mean, n2_var)
    r2 = Relu (n2)
    c2 = Conv <pads=[1,1,1,1]> (r2, c2_w)
    k2 = Concat <axis=-3> (k1, c2)
    n3 = BatchNormalization (k2, n3_gamma, n3_beta, n3_mean, n3_var)
    r3 = Relu (n3)
    t = Conv (r3, t_w, t_b)
    p = AveragePool <kernel_shape=[2,2], strides=[2,2]> (t)
    g = ReduceMean <axes=[2,3], keepdims=0> (p)
    m = MatMul (g, fc_w)
    y = Add (m, fc_b)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), "c1_w": (6, 8, 3, 3), "c2_w": (6, 14, 3, 3)}
    weights |= {"t_w": (10, 20, 1, 1), "t_b": (10,), "fc_w": (10, 5), "fc_b": (5,)}
    weights |= batchnorm("n1", 8) | batchnorm("n2", 14) | batchnorm("n3", 20)
    return model_from_text("(float[N,3,16,16] x) => (float[N,5] y)", body, weights)


def shufflenet() -> onnx.ModelProto:
    """Split, grouped convolutions, Reshape–Transpose–Reshape shuffle with constant shapes, Concat."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, c0_b)
    r0 = Relu (c0)
    left, right = Split <axis=1> (r0, halves)
    a = Conv <group=2> (right, a_w, a_b)
    d = Conv <group=8, pads=[1,1,1,1]> (a, d_w, d_b)
    b = Conv <group=2> (d, b_w, b_b)
    k = Concat <axis=1> (left, b)
    v = Reshape (k, grouped)
    t = Transpose <perm=[0,2,1,3,4]> (v)
    u = Reshape (t, flat)
    e = Conv <group=4, pads=[1,1,1,1]> (u, e_w, e_b)
    r = LeakyRelu <alpha=0.1> (e)
    g = GlobalMaxPool (r)
    s = Squeeze (g, spatial)
    y = Gemm (s, fc_w, fc_b)
    """
    weights: Weights = {"c0_w": (16, 3, 3, 3), "c0_b": (16,), "halves": integers(8, 8), "a_w": (8, 4, 1, 1)}
    weights |= {"a_b": (8,), "d_w": (8, 1, 3, 3), "d_b": (8,), "b_w": (8, 4, 1, 1), "b_b": (8,)}
    weights |= {"grouped": integers(0, 2, 8, 8, 8), "flat": integers(0, -1, 8, 8), "e_w": (12, 4, 3, 3), "e_b": (12,)}
    weights |= {"spatial": integers(2, 3), "fc_w": (12, 5), "fc_b": (5,)}
    return model_from_text("(float[N,3,8,8] x) => (float[N,5] y)", body, weights)


def unet() -> onnx.ModelProto:
    body = """
    e0 = Conv <pads=[1,1,1,1]> (x, e0_w, e0_b)
    r0 = Relu (e0)
    p0 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r0)
    e1 = Conv <pads=[1,1,1,1]> (p0, e1_w, e1_b)
    r1 = Relu (e1)
    p1 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r1)
    m = Conv <pads=[2,2,2,2], dilations=[2,2]> (p1, m_w, m_b)
    rm = Sigmoid (m)
    u1 = ConvTranspose <kernel_shape=[2,2], strides=[2,2]> (rm, u1_w)
    ub = Add (u1, u1_b)
    un = BatchNormalization (ub, n_gamma, n_beta, n_mean, n_var)
    k1 = Concat <axis=1> (un, r1)
    d1 = Conv <pads=[1,1,1,1]> (k1, d1_w, d1_b)
    rd = Relu (d1)
    u0 = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (rd, , scales)
    g = ConvTranspose <group=2, kernel_shape=[3,3], pads=[1,1,1,1]> (u0, g_w, g_b)
    k0 = Concat <axis=1> (r0, g)
    y = Conv (k0, y_w, y_b)
    """
    weights: Weights = {"e0_w": (8, 3, 3, 3), "e0_b": (8,), "e1_w": (12, 8, 3, 3), "e1_b": (12,), "m_w": (16, 12, 3, 3)}
    weights |= {"m_b": (16,), "u1_w": (16, 10, 2, 2), "u1_b": (1, 10, 1, 1), **batchnorm("n", 10)}
    weights |= {"d1_w": (8, 22, 3, 3), "d1_b": (8,), "scales": np.array([1, 1, 2, 2], np.float32), "g_w": (8, 3, 3, 3)}
    weights |= {"g_b": (6,), "y_w": (2, 14, 1, 1), "y_b": (2,)}
    return model_from_text("(float[N,3,16,16] x) => (float[N,2,16,16] y)", body, weights)


def yolo_head() -> onnx.ModelProto:
    """C2f, then two scales reshaped by one computed shape, joined, split into boxes (softmax over bins) and classes."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, c0_b)
    s0 = Sigmoid (c0)
    h0 = Mul (c0, s0)
    a, b = Split <axis=1> (h0, halves)
    i = Conv <pads=[1,1,1,1]> (b, i_w, i_b)
    j = Conv <pads=[1,1,1,1]> (i, j_w, j_b)
    z = Add (b, j)
    k = Concat <axis=1> (a, b, z)
    c1 = Conv (k, c1_w, c1_b)
    down = Conv <strides=[2,2], pads=[1,1,1,1]> (c1, down_w, down_b)
    box0 = Conv (c1, box0_w, box0_b)
    cls0 = Conv (c1, cls0_w, cls0_b)
    box1 = Conv (down, box1_w, box1_b)
    cls1 = Conv (down, cls1_w, cls1_b)
    o0 = Concat <axis=1> (box0, cls0)
    o1 = Concat <axis=1> (box1, cls1)
    dims = Shape (o0)
    n0 = Gather <axis=0> (dims, first)
    n = Unsqueeze (n0, axis0)
    target = Concat <axis=0> (n, outputs, rest)
    v0 = Reshape (o0, target)
    v1 = Reshape (o1, target)
    all = Concat <axis=2> (v0, v1)
    bins, cls = Split <axis=1> (all, parts)
    bdims = Shape (bins)
    anchors0 = Gather <axis=0> (bdims, last)
    anchors = Unsqueeze (anchors0, axis0)
    btarget = Concat <axis=0> (n, four, two, anchors)
    bv = Reshape (bins, btarget)
    bt = Transpose <perm=[0,2,1,3]> (bv)
    bs = Softmax <axis=1> (bt)
    dfl = Conv (bs, dfl_w)
    ftarget = Concat <axis=0> (n, four, anchors)
    boxes = Reshape (dfl, ftarget)
    scores = Sigmoid (cls)
    y = Concat <axis=1> (boxes, scores)
    """
    weights: Weights = {"c0_w": (16, 3, 3, 3), "c0_b": (16,), "halves": integers(8, 8), "i_w": (6, 8, 3, 3)}
    weights |= {"i_b": (6,), "j_w": (8, 6, 3, 3), "j_b": (8,), "c1_w": (12, 24, 1, 1), "c1_b": (12,)}
    weights |= {"down_w": (10, 12, 3, 3), "down_b": (10,), "box0_w": (8, 12, 1, 1), "box0_b": (8,)}
    weights |= {"cls0_w": (3, 12, 1, 1), "cls0_b": (3,), "box1_w": (8, 10, 1, 1), "box1_b": (8,)}
    weights |= {"cls1_w": (3, 10, 1, 1), "cls1_b": (3,), "dfl_w": np.arange(2, dtype=np.float32).reshape(1, 2, 1, 1)}
    weights |= {"first": np.int64(0), "last": np.int64(2), "axis0": integers(0), "outputs": integers(11)}
    weights |= {"rest": integers(-1), "parts": integers(8, 3), "four": integers(4), "two": integers(2)}
    return model_from_text("(float[N,3,H,W] x) => (float[N,7,A] y)", body, weights)


def tied_convolutions() -> onnx.ModelProto:
    """One kernel and one bias read by two convolutions, one BatchNorm vector by two nodes."""
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w, shared_b)
    r0 = Relu (c0)
    c1 = Conv <pads=[1,1,1,1]> (r0, shared_w, shared_b)
    n1 = BatchNormalization (c1, n_gamma, n_beta, n_mean, n_var)
    r1 = Relu (n1)
    c2 = Conv <pads=[1,1,1,1]> (r1, shared_w, shared_b)
    n2 = BatchNormalization (c2, n_gamma, m_beta, n_mean, n_var)
    r2 = Relu (n2)
    c3 = Conv <pads=[1,1,1,1]> (r2, c3_w, c3_b)
    g = GlobalAveragePool (c3)
    f = Flatten (g)
    y = Gemm <transB=1> (f, fc_w)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "shared_w": (8, 8, 3, 3), "shared_b": (8,), "c3_w": (12, 8, 3, 3)}
    weights |= {"c3_b": (12,), "m_beta": (8,), "fc_w": (5, 12), **batchnorm("n", 8)}
    return model_from_text("(float[N,3,8,8] x) => (float[N,5] y)", body, weights)


TEXT_TOPOLOGIES: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet-text": resnet,
    "vgg-text": vgg,
    "inception-text": inception,
    "mobilenet-v2-text": mobilenet_v2,
    "convnext-text": convnext,
    "densenet-text": densenet,
    "shufflenet-text": shufflenet,
    "unet-text": unet,
    "yolo-head-text": yolo_head,
    "tied-convolutions-text": tied_convolutions,
}
