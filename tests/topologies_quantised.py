"""Small networks with weights in quanta that no quantiser of onnxruntime writes as they stand: written by hand."""

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

Tensors = Mapping[str, np.ndarray]
RNG = np.random.default_rng


def model_of(signature: str, body: str, tensors: Tensors, opset: int = 21) -> onnx.ModelProto:
    """Parse one graph and attach its constants; contrib operators are those of onnxruntime."""
    text = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> net {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    return model


def quanta(shape: tuple[int, ...], seed: int, dtype: type = np.int8) -> np.ndarray:
    info = ml_dtypes.iinfo(dtype)
    return RNG(seed).integers(int(info.min), int(info.max) + 1, shape).astype(dtype)


def scales(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return RNG(seed).uniform(0.01, 0.03, shape).astype(np.float32)


def real(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (RNG(seed).standard_normal(shape) * 0.3).astype(np.float32)


def four_bits() -> onnx.ModelProto:
    """int4 per channel, uint4 with a zero point a channel, and int4 in blocks of 8 inputs, the last one short."""
    body = """
    w0 = DequantizeLinear <axis = 1> (q0, s0)
    h0 = MatMul (x, w0)
    r0 = Relu (h0)
    w1 = DequantizeLinear <axis = 0> (q1, s1, z1)
    h1 = Gemm <transB = 1> (r0, w1, b1)
    r1 = Tanh (h1)
    w2 = DequantizeLinear <axis = 0, block_size = 8> (q2, s2, z2)
    h2 = MatMul (r1, w2)
    r2 = Relu (h2)
    w3 = com.microsoft.DequantizeLinear <axis = 1> (q3, s3, z3)
    h3 = MatMul (r2, w3)
    r3 = Relu (h3)
    w4 = DequantizeLinear <axis = 1> (q4, s4)
    y = MatMul (r3, w4)
    """
    int4, uint4 = ml_dtypes.int4, ml_dtypes.uint4
    return model_of(
        "(float[N, 12] x) => (float[N, 5] y)",
        body,
        {
            "q0": quanta((12, 18), 0, int4),
            "s0": scales((18,), 1),
            "q1": quanta((28, 18), 2, uint4),
            "s1": scales((28,), 3),
            "z1": quanta((28,), 4, uint4),
            "b1": real((28,), 5),
            "q2": quanta((28, 10), 6, uint4),
            "s2": scales((4, 10), 7),
            "z2": quanta((4, 10), 8, uint4),
            "q3": quanta((10, 8), 11, np.uint16),
            "s3": scales((8,), 12) / 256,
            "z3": quanta((8,), 13, np.uint16),
            "q4": quanta((8, 5), 9, int4),
            "s4": scales((5,), 10),
        },
    )


def chains() -> onnx.ModelProto:
    """Weights behind Transpose, Squeeze, a product with a constant, and a Reshape whose size counts channels."""
    body = """
    d0 = DequantizeLinear <axis = 0> (q0, s0)
    w0 = Transpose <perm = [1, 0]> (d0)
    h0 = MatMul (x, w0)
    bias = Squeeze (b0, zero)
    a0 = Add (h0, bias)
    r0 = Relu (a0)
    d1 = DequantizeLinear <axis = 0> (q1, s1, z1)
    w1 = Reshape (d1, sizes)
    h1 = MatMul (r0, w1)
    r1 = Tanh (h1)
    c2 = DequantizeLinear (q2, s2)
    t2 = Transpose <perm = [1, 0]> (c2)
    w2 = Mul (t2, gain)
    y = MatMul (r1, w2)
    """
    return model_of(
        "(float[N, 12] x) => (float[N, 5] y)",
        body,
        {
            "q0": quanta((18, 12), 0),
            "s0": scales((18,), 1),
            "b0": real((1, 18), 2),
            "zero": np.array([0], np.int64),
            "q1": quanta((18, 1, 14), 3, np.uint8),
            "s1": scales((18,), 4),
            "z1": quanta((18,), 5, np.uint8),
            "sizes": np.array([18, 14], np.int64),
            "q2": quanta((5, 14), 6),
            "s2": scales((), 7),
            "gain": real((14, 5), 8),
        },
    )


def trained_with_quanta() -> onnx.ModelProto:
    """Weights stay numbers in the file, and go through QuantizeLinear and DequantizeLinear, as after such training."""
    body = """
    xq = QuantizeLinear (x, sx, zx)
    xd = DequantizeLinear (xq, sx, zx)
    q0 = QuantizeLinear <axis = 0> (w0, s0, z0)
    d0 = DequantizeLinear <axis = 0> (q0, s0, z0)
    h0 = Conv <pads = [1, 1, 1, 1]> (xd, d0, b0)
    r0 = Relu (h0)
    hq = QuantizeLinear (r0, sh, zx)
    hd = DequantizeLinear (hq, sh, zx)
    q1 = QuantizeLinear (w1, s1, z1)
    d1 = DequantizeLinear (q1, s1, z1)
    h1 = Conv <group = 2> (hd, d1, b1)
    t = Tanh (h1)
    pq = QuantizeLinear <axis = 1> (t, sp, zp)
    pd = DequantizeLinear <axis = 1> (pq, sp, zp)
    g = GlobalAveragePool (pd)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w2)
    """
    return model_of(
        "(float[N, 3, 8, 8] x) => (float[N, 5] y)",
        body,
        {
            "sx": np.float32(0.02),
            "zx": np.uint8(0),
            "w0": real((12, 3, 3, 3), 0),
            "s0": scales((12,), 1),
            "z0": np.zeros(12, np.int8),
            "b0": real((12,), 2),
            "sh": np.float32(0.03),
            "w1": real((8, 6, 1, 1), 3),
            "s1": scales((), 4),
            "z1": np.int8(3),
            "b1": real((8,), 5),
            "sp": scales((8,), 6),
            "zp": quanta((8,), 7, np.uint8),
            "w2": real((5, 8), 8),
        },
    )


def runtime_layers() -> onnx.ModelProto:
    """onnxruntime's own layers: a dynamic range, whole numbers to real ones, packed weights with and without zeros."""
    body = """
    h0 = com.microsoft.DynamicQuantizeMatMul (x, q0, s0, z0, b0)
    r0 = Relu (h0)
    u0, su, zu = DynamicQuantizeLinear (r0)
    h1 = com.microsoft.MatMulIntegerToFloat (u0, q1, su, s1, zu, z1)
    r1 = Tanh (h1)
    h2 = com.microsoft.MatMulNBits <K = 40, N = 48, bits = 4, block_size = 16> (r1, q2, s2)
    r2 = Relu (h2)
    h3 = com.microsoft.MatMulNBits <K = 48, N = 20, bits = 4, block_size = 16> (r2, q3, s3, z3)
    r3 = Relu (h3)
    y = com.microsoft.MatMulNBits <K = 20, N = 5, bits = 8, block_size = 16> (r3, q4, s4, , , b4)
    """
    return model_of(
        "(float[N, 12] x) => (float[N, 5] y)",
        body,
        {
            "q0": quanta((12, 18), 0),
            "s0": scales((18,), 1),
            "z0": quanta((18,), 2),
            "b0": real((18,), 3),
            "q1": quanta((18, 40), 4, np.uint8),
            "s1": scales((40,), 5),
            "z1": quanta((40,), 6, np.uint8),
            "q2": quanta((48, 3, 8), 7, np.uint8),
            "s2": scales((48, 3), 8),
            "q3": quanta((20, 3, 8), 9, np.uint8),
            "s3": scales((20, 3), 10),
            "z3": quanta((20, 2), 11, np.uint8),
            "q4": quanta((5, 2, 16), 12, np.uint8),
            "s4": scales((5, 2), 13),
            "b4": real((5,), 14),
        },
    )


def runtime_operators() -> onnx.ModelProto:
    """Two branches of quanta that meet in every way: sums, products, a gate, a pool, a join, and a constant operand."""
    body = """
    xq = QuantizeLinear (x, s, z)
    a = QLinearConv <pads = [1, 1, 1, 1]> (xq, s, z, wa, sa, za, s, z, ba)
    b = QLinearConv (xq, s, z, wb, s, wz, s, z)
    ar = com.microsoft.QLinearLeakyRelu <alpha = 0.1> (a, s, z, s, z)
    g = com.microsoft.QLinearGlobalAveragePool <channels_last = 0> (ar, s, z, s, z)
    gate = com.microsoft.QLinearSigmoid (g, s, z, sg, zg)
    c = com.microsoft.QLinearMul (ar, s, z, gate, sg, zg, s, z)
    p = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (c, s, z, s, z)
    bp = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (b, s, z, s, z)
    k = com.microsoft.QLinearConcat <axis = 1> (s, z, p, s, z, bp, s, z)
    m = com.microsoft.QLinearAdd (k, s, z, offset, s, z, s, z)
    f = Flatten (m)
    h = com.microsoft.QGemm (f, s, z, wh, sh, zh, bh, s, z)
    o = com.microsoft.QGemm <transB = 1> (h, s, z, wo, s, wz, , s, z)
    t = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (o, s, z, sg, zg)
    y = DequantizeLinear (t, sg, zg)
    """
    return model_of(
        "(float[N, 3, 4, 4] x) => (float[N, 5] y)",
        body,
        {
            "s": np.float32(0.02),
            "z": np.uint8(121),
            "sg": np.float32(1 / 256),
            "zg": np.uint8(0),
            "wz": np.uint8(130),
            "wa": quanta((10, 3, 3, 3), 0, np.uint8),
            "sa": scales((10,), 1),
            "za": quanta((10,), 2, np.uint8),
            "ba": RNG(3).integers(-900, 900, 10).astype(np.int32),
            "wb": quanta((8, 3, 1, 1), 4, np.uint8),
            "offset": quanta((1, 18, 1, 1), 5, np.uint8),
            "wh": quanta((162, 14), 6, np.uint8),
            "sh": scales((14,), 7) / 20,
            "zh": quanta((14,), 8, np.uint8),
            "bh": RNG(9).integers(-900, 900, 14).astype(np.int32),
            "wo": quanta((5, 14), 10, np.uint8),
        },
    )


def attention() -> onnx.ModelProto:
    """Queries meet keys, and weights meet values, as quanta of fixed ranges."""
    body = """
    xq = QuantizeLinear (x, s, z)
    q = QLinearMatMul (xq, s, z, wq, sw, wz, s, z)
    k = QLinearMatMul (xq, s, z, wk, sw, wz, s, z)
    v = QLinearMatMul (xq, s, z, wv, sv, vz, s, z)
    kt = Transpose <perm = [0, 2, 1]> (k)
    a = QLinearMatMul (q, s, z, kt, s, z, sa, z)
    ad = DequantizeLinear (a, sa, z)
    p = Softmax <axis = -1> (ad)
    u, su, zu = DynamicQuantizeLinear (p)
    c = MatMulInteger (u, v, zu, z)
    cf = Cast <to = 1> (c)
    o = Mul (cf, su)
    y = MatMul (o, wo)
    """
    return model_of(
        "(float[N, 6, 12] x) => (float[N, 6, 5] y)",
        body,
        {
            "s": np.float32(0.02),
            "z": np.uint8(121),
            "sa": np.float32(0.05),
            "sw": np.float32(0.01),
            "wz": np.uint8(130),
            "wq": quanta((12, 8), 0, np.uint8),
            "wk": quanta((12, 8), 1, np.uint8),
            "wv": quanta((12, 10), 2, np.uint8),
            "sv": scales((10,), 3),
            "vz": quanta((10,), 4, np.uint8),
            "wo": real((10, 5), 5),
        },
    )


def half_precision_weights() -> onnx.ModelProto:
    """float16 and bfloat16 weights that a Cast widens at run time."""
    body = """
    w0 = Cast <to = 1> (h0)
    a = MatMul (x, w0)
    r = Relu (a)
    w1 = Cast <to = 1> (h1)
    y = MatMul (r, w1)
    """
    model = model_of("(float[N, 12] x) => (float[N, 5] y)", body, {"h0": real((12, 18), 0).astype(np.float16)})
    raw = real((18, 5), 1).astype(ml_dtypes.bfloat16)
    model.graph.initializer.append(
        onnx.helper.make_tensor("h1", TensorProto.BFLOAT16, raw.shape, raw.tobytes(), raw=True)
    )
    return model


QUANTISED_TOPOLOGIES: dict[str, Callable[[], onnx.ModelProto]] = {
    "four-bits": four_bits,
    "chains": chains,
    "trained-with-quanta": trained_with_quanta,
    "runtime-layers": runtime_layers,
    "runtime-operators": runtime_operators,
    "attention": attention,
    "half-precision-weights": half_precision_weights,
}
