"""Operators on quanta, and on embeddings, each with what it is fed. Straight-through gradients are tested apart."""

import numpy as np
from twin_case import Case, case, integers, uniform

MS = "com.microsoft."
F, U, S = np.float32, np.uint8, np.int8
BYTES = integers(0, 256, 3, 4, kind="uint8")
SIGNED = integers(-128, 128, 3, 4, kind="int8")
WIDE = uniform(-9, 9, 3, 4)
ONE = {"s": F(0.07), "z": U(120)}


def triple(name: str, x: np.ndarray, scale: float, zero: int) -> dict[str, np.ndarray]:
    """Quanta with their scale and what stands for zero."""
    return {name: x, f"{name}s": F(scale), f"{name}z": x.dtype.type(zero)}


A, B = triple("a", BYTES, 0.03, 110), triple("b", BYTES[:, ::-1].copy(), 0.05, 90)
RIGHT = triple("b", integers(-128, 128, 4, 2, kind="int8"), 0.02, 3)
IMAGE = triple("a", integers(0, 256, 1, 2, 5, 5, kind="uint8"), 0.02, 100)
KERNEL = integers(-128, 128, 3, 2, 3, 3, kind="int8")
EACH = {"w": KERNEL, "ws": uniform(0.01, 0.03, 3), "wz": np.zeros(3, S)}
OUT = {"ys": F(0.2), "yz": U(128)}
PACKED = integers(0, 256, 3, 2, 8, kind="uint8")
TABLES = {"w": (9, 4), "p": (6, 4), "g": (2, 4), "n": (4,), "b": (4,)}


def plain(body: str, opset: int = 17, **given: object) -> Case:
    return case(body, opset, smooth=False, **given)


CASES: list[Case] = [
    plain("y = QuantizeLinear (x, s, z)", x=WIDE, **ONE),
    plain("y = QuantizeLinear (x, s)", x=WIDE, s=F(0.07)),
    plain("y = QuantizeLinear <axis = 0> (x, s, z)", x=WIDE, s=uniform(0.02, 0.2, 3), z=S([3, -5, 0])),
    plain("y = QuantizeLinear (x, s)", x=F([0.5, 1.5, 2.5, -1.5]), s=F(1)),
    plain("y = QuantizeLinear (x, s, z)", x=F([0.5, 1.5, 2.5]), s=F(1), z=U(1)),
    plain("y = QuantizeLinear <axis = 1, block_size = 2> (x, s)", opset=21, x=WIDE, s=uniform(0.1, 0.2, 3, 2)),
    plain("y = QuantizeLinear <output_dtype = 5> (x, s)", opset=21, x=WIDE, s=F(0.001)),
    plain("y = DequantizeLinear (x, s, z)", x=BYTES, **ONE),
    plain("y = DequantizeLinear (x, s)", x=integers(-999, 999, 3, 4, kind="int32"), s=F(0.1)),
    plain("y = DequantizeLinear <axis = -1> (x, s, z)", x=SIGNED, s=uniform(0.02, 0.2, 4), z=np.zeros(4, S)),
    plain(
        "y = DequantizeLinear <axis = 0, block_size = 2> (x, s, z)",
        opset=21,
        x=integers(0, 255, 4, 3, kind="uint8"),
        s=uniform(0.1, 0.2, 2, 3),
        z=integers(0, 9, 2, 3, kind="uint8"),
    ),
    plain(f"y = {MS}QuantizeLinear (x, s, z)", x=WIDE, **ONE),
    plain(f"y = {MS}DequantizeLinear (x, s, z)", x=BYTES, **ONE),
    plain("y, s, z = DynamicQuantizeLinear (x)", x=WIDE),
    plain("y, s, z = DynamicQuantizeLinear (x)", x=np.abs(WIDE) + 1),
    plain("y = MatMulInteger (a, b)", a=BYTES, b=RIGHT["b"]),
    plain("y = MatMulInteger (a, b, az, bz)", a=BYTES, b=RIGHT["b"], az=U(7), bz=S([1, -2])),
    plain("y = ConvInteger <pads = [1, 1, 1, 1]> (a, w, az)", a=IMAGE["a"], w=KERNEL, az=U(12)),
    plain("y = QLinearConv <strides = [2, 2]> (a, as, az, w, ws, wz, ys, yz)", **IMAGE, **EACH, **OUT),
    plain(
        "y = QLinearConv <pads = [1, 1, 1, 1]> (a, as, az, w, ws, wz, ys, yz, b)",
        **IMAGE,
        **triple("w", KERNEL, 0.02, 0),
        **OUT,
        b=integers(-999, 999, 3, kind="int32"),
    ),
    plain("y = QLinearMatMul (a, as, az, b, bs, bz, ys, yz)", **A, **RIGHT, **OUT),
    plain(
        f"y = {MS}QGemm (a, as, az, b, bs, bz, c, ys, yz)", **A, **RIGHT, **OUT, c=integers(-999, 999, 2, kind="int32")
    ),
    plain(f"y = {MS}QGemm <transB = 1, alpha = 0.5> (a, as, az, b, bs, bz)", **A, **triple("b", SIGNED, 0.02, 0)),
    plain(
        f"y = {MS}MatMulIntegerToFloat (a, b, as, bs, az, bz, c)",
        **A,
        b=RIGHT["b"],
        bs=uniform(0.01, 0.02, 2),
        bz=S([0, 0]),
        c=(2,),
    ),
    plain(f"y = {MS}DynamicQuantizeMatMul (x, b, bs, bz, c)", x=WIDE, **RIGHT, c=(2,)),
    case(
        f"y = {MS}MatMulNBits <K = 24, N = 3, bits = 4, block_size = 16> (x, w, s)",
        x=(2, 24),
        w=PACKED,
        s=uniform(0.1, 0.2, 3, 2),
    ),
    case(
        f"y = {MS}MatMulNBits <K = 32, N = 3, bits = 4, block_size = 16> (x, w, s, z, , b)",
        x=(2, 2, 32),
        w=PACKED,
        s=uniform(0.1, 0.2, 3, 2),
        z=integers(0, 256, 3, 1, kind="uint8"),
        b=(3,),
    ),
    case(
        f"y = {MS}MatMulNBits <K = 32, N = 3, bits = 8, block_size = 16> (x, w, s)",
        x=(2, 32),
        w=integers(0, 256, 3, 2, 16, kind="uint8"),
        s=uniform(0.1, 0.2, 3, 2),
    ),
    *(
        plain(f"y = {MS}{name} (a, as, az, b, bs, bz, ys, yz)", **A, **B, ys=F(scale), yz=U(128))
        for name, scale in (("QLinearAdd", 0.08), ("QLinearMul", 0.3))
    ),
    plain(f"y = {MS}QLinearLeakyRelu <alpha = 0.2> (a, as, az, ys, yz)", **A, **OUT),
    plain(f"y = {MS}QLinearSigmoid (a, as, az, ys, yz)", **A, ys=F(1 / 256), yz=U(0)),
    plain(f"y = {MS}QLinearSoftmax <axis = -1, opset = 13> (a, as, az, ys, yz)", **A, ys=F(1 / 256), yz=U(0)),
    plain(f"y = {MS}QLinearConcat <axis = 0> (ys, yz, a, as, az, b, bs, bz)", **OUT, **A, **B),
    plain(f"y = {MS}QLinearAveragePool <kernel_shape = [2, 2]> (a, as, az, ys, yz)", **IMAGE, ys=F(0.013), yz=U(90)),
    plain(f"y = {MS}QLinearGlobalAveragePool (a, as, az, ys, yz)", **IMAGE, ys=F(0.004), yz=U(90)),
    plain(f"y = {MS}QLinearGlobalAveragePool <channels_last = 1> (a, as, az, ys, yz)", **IMAGE, ys=F(0.02), yz=U(90)),
    plain(
        f"y = {MS}QLinearWhere (c, a, as, az, b, bs, bz, ys, yz)",
        c=np.array([[True], [False], [True]]),
        **A,
        **B,
        ys=F(0.05),
        yz=U(100),
    ),
    case(
        f"y, m, t = {MS}EmbedLayerNormalization (i, j, w, p, g, n, b, k)",
        i=integers(0, 9, 2, 5, kind="int32"),
        j=integers(0, 2, 2, 5, kind="int32"),
        **TABLES,
        k=np.int32([[1, 1, 1, 0, 0], [1] * 5]),
    ),
    case(
        f"y, m, t = {MS}EmbedLayerNormalization <epsilon = 0.1> (i, , w, p, , n, b)",
        i=integers(0, 9, 2, 5, kind="int32"),
        **{k: v for k, v in TABLES.items() if k != "g"},
    ),
]
