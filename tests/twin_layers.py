"""Layers, pools and norms, each with what it is fed."""

import numpy as np
from twin_case import Case, case, uniform

MS = "com.microsoft."
SIDE = "kernel_shape = [3, 2], strides = [2, 1]"
SPREAD = np.random.default_rng(5).permutation(2 * 3 * 7 * 6).reshape(2, 3, 7, 6).astype(np.float32) / 50
"""An image without two equal numbers: the largest stays the largest when one moves."""
ROW = SPREAD[0, :, :, 0][None].copy()
BOX = SPREAD.reshape(1, 2, 3, 6, 7).copy()
POOLS = ("MaxPool", "AveragePool", "LpPool")

CASES: list[Case] = [
    case("y = Conv (x, w)", x=(2, 3, 5), w=(4, 3, 3)),
    case("y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w, b)", x=(2, 3, 5, 6), w=(4, 3, 3, 3), b=(4,)),
    case("y = Conv <pads = [0, 2, 1, 0], group = 2> (x, w)", x=(1, 4, 5, 6), w=(6, 2, 2, 3)),
    case('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', x=(1, 2, 5, 6), w=(3, 2, 3, 2)),
    case('y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)', x=(1, 2, 5, 6), w=(3, 2, 3, 2)),
    case('y = Conv <auto_pad = "VALID", dilations = [2, 1]> (x, w)', x=(1, 2, 6, 6), w=(3, 2, 3, 2)),
    case("y = Conv (x, w)", x=(1, 2, 3, 4, 3), w=(2, 2, 2, 2, 2)),
    case("y = ConvTranspose (x, w, b)", x=(1, 2, 4), w=(2, 3, 3), b=(3,)),
    case("y = ConvTranspose <strides = [2, 2], pads = [1, 0, 1, 2]> (x, w, b)", x=(1, 2, 3, 4), w=(2, 3, 3, 3), b=(3,)),
    case(
        "y = ConvTranspose <strides = [2, 3], output_padding = [1, 2], group = 2, dilations = [1, 2]> (x, w, b)",
        x=(1, 4, 3, 2),
        w=(4, 2, 3, 2),
        b=(4,),
    ),
    case("y = ConvTranspose <strides = [2, 2], output_shape = [8, 7]> (x, w)", x=(1, 2, 3, 3), w=(2, 1, 3, 3)),
    case('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)', x=(1, 2, 3, 3), w=(2, 1, 3, 3)),
    case('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, w)', x=(1, 2, 3, 3), w=(2, 1, 3, 3)),
    case("y = Gemm (a, b)", a=(2, 3), b=(3, 4)),
    case("y = Gemm <transB = 1> (a, b, c)", a=(2, 3), b=(4, 3), c=(4,)),
    case("y = Gemm <transA = 1, alpha = 0.5, beta = 2.0> (a, b, c)", a=(3, 2), b=(3, 4), c=(2, 1)),
    case("y = MatMul (a, b)", a=(2, 3), b=(3, 4)),
    case("y = MatMul (a, b)", a=(2, 1, 3, 4), b=(3, 4, 2)),
    case("y = MatMul (a, b)", a=(3,), b=(2, 3, 4)),
    case(f"y = {MS}FusedMatMul <transA = 1, transB = 1, alpha = 0.3> (a, b)", a=(2, 4, 3), b=(2, 5, 4)),
    case(f"y = {MS}FusedMatMul <transBatchA = 1> (a, b)", a=(3, 2, 4), b=(2, 4, 5)),
    case(f"y = {MS}FusedMatMul <transBatchB = 1, transB = 1> (a, b)", a=(2, 3, 4), b=(5, 2, 4)),
    case(f"y = {MS}TransposeMatMul <transB = 1, alpha = 2.0> (a, b)", a=(2, 4), b=(5, 4)),
    case('y = Einsum <equation = "bij,bjk->bik"> (a, b)', a=(2, 3, 4), b=(2, 4, 2)),
    case('y = Einsum <equation = "...i,i"> (a, b)', a=(2, 3), b=(3,)),
    case(
        f'y = {MS}FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, w, b)',
        x=(1, 2, 4, 4),
        w=(3, 2, 3, 3),
        b=(3,),
    ),
    case(
        f'y = {MS}FusedConv <activation = "LeakyRelu", activation_params = [0.2]> (x, w, b)',
        x=(1, 2, 4, 4),
        w=(3, 2, 3, 3),
        b=(3,),
    ),
    case(
        f'y = {MS}FusedConv <activation = "Relu"> (x, w, b, z)', x=(1, 2, 3, 3), w=(3, 2, 2, 2), b=(3,), z=(1, 3, 2, 2)
    ),
    *(
        case(f'y = {MS}FusedConv <activation = "{name}"> (x, w)', x=(1, 2, 3, 3), w=(3, 2, 2, 2))
        for name in ("Sigmoid", "Tanh", "HardSwish")
    ),
    case(
        f'y = {MS}FusedConv <activation = "Clip", activation_params = [-0.5, 0.7]> (x, w)',
        x=(1, 2, 3, 3),
        w=(3, 2, 2, 2),
    ),
    case(
        f'y = {MS}FusedConv <activation = "HardSigmoid", activation_params = [0.3, 0.4]> (x, w)',
        x=(1, 2, 3, 3),
        w=(3, 2, 2, 2),
    ),
    case(f'y = {MS}FusedGemm <activation = "Relu", transB = 1> (a, b, c)', a=(2, 3), b=(4, 3), c=(4,)),
    case(f'y = {MS}FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3> (a, b)', a=(2, 3), b=(3, 4)),
    *(case(f"y = {name} <{SIDE}> (x)", x=SPREAD) for name in POOLS),
    *(case(f"y = {name} <{SIDE}, pads = [1, 0, 1, 1]> (x)", x=SPREAD) for name in POOLS),
    *(case(f'y = {name} <{SIDE}, auto_pad = "SAME_UPPER"> (x)', x=SPREAD) for name in POOLS),
    *(case(f"y = {name} <kernel_shape = [2], strides = [3]> (x)", x=ROW) for name in POOLS),
    *(case(f"y = {name} <kernel_shape = [2, 2, 2]> (x)", x=BOX) for name in POOLS),
    *(case(f"y = {name} <{SIDE}, ceil_mode = 1> (x)", opset=19, x=SPREAD) for name in POOLS),
    *(case(f"y = {name} <{SIDE}, dilations = [2, 2]> (x)", opset=19, x=SPREAD) for name in POOLS),
    case("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1> (x)", x=SPREAD),
    case("y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)", x=SPREAD),
    case("y, i = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", x=SPREAD),
    case("y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2], storage_order = 1> (x)", x=SPREAD),
    case("y = MaxPool <kernel_shape = [2, 2]> (x)", x=(SPREAD * 50 - 100).astype(np.int8), smooth=False),
    case(f"y = {MS}NhwcMaxPool <kernel_shape = [2, 2]> (x)", x=(SPREAD * 50 - 100).astype(np.int8), smooth=False),
    case("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)", x=SPREAD),
    case(
        "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0], ceil_mode = 1, "
        "count_include_pad = 1> (x)",
        opset=19,
        x=SPREAD,
    ),
    case("y = LpPool <kernel_shape = [2, 2], p = 3> (x)", x=SPREAD),
    case("y = GlobalAveragePool (x)", x=SPREAD),
    case("y = GlobalMaxPool (x)", x=SPREAD),
    case("y = GlobalLpPool <p = 3> (x)", x=SPREAD),
    case("y = GlobalLpPool (x)", x=ROW),
    case(
        "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i)",
        x=(1, 1, 2, 2),
        i=np.array([[[[5, 7], [13, 8]]]]),
    ),
    case(
        "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, s)",
        x=(1, 1, 2, 2),
        i=np.array([[[[5, 7], [13, 18]]]]),
        s=np.array([1, 1, 5, 5]),
    ),
    case("y = BatchNormalization (x, g, b, m, v)", x=(2, 3, 4), g=(3,), b=(3,), m=(3,), v=uniform(0.5, 1, 3)),
    case(
        "y = BatchNormalization <epsilon = 0.1> (x, g, b, m, v)", x=(2, 3), g=(3,), b=(3,), m=(3,), v=uniform(0.5, 1, 3)
    ),
    case("y = InstanceNormalization <epsilon = 0.01> (x, g, b)", x=(2, 3, 4, 5), g=(3,), b=(3,)),
    case("y = GroupNormalization <num_groups = 2> (x, g, b)", opset=18, x=(2, 4, 3), g=(2,), b=(2,)),
    case("y = GroupNormalization <num_groups = 2> (x, g, b)", opset=21, x=(2, 4, 3, 2), g=(4,), b=(4,)),
    case("y = LayerNormalization (x, g, b)", x=(2, 3, 4), g=(4,), b=(4,)),
    case("y = LayerNormalization <axis = 1, epsilon = 0.1> (x, g)", x=(2, 3, 4), g=(3, 4)),
    case("y, m, d = LayerNormalization (x, g, b)", x=(2, 3, 4), g=(4,), b=(4,)),
    case("y = RMSNormalization (x, g)", opset=23, x=(2, 3, 4), g=(4,)),
    case("y = SimplifiedLayerNormalization <axis = -1> (x, g)", x=(2, 3, 4), g=(4,)),
    case(f"y = {MS}SkipLayerNormalization (x, s, g, b)", x=(2, 3, 4), s=(2, 3, 4), g=(4,), b=(4,)),
    case(f"y, , , t = {MS}SkipLayerNormalization (x, s, g, b, c)", x=(2, 3, 4), s=(2, 3, 4), g=(4,), b=(4,), c=(4,)),
    case(f"y, , , t = {MS}SkipSimplifiedLayerNormalization (x, s, g, c)", x=(2, 3, 4), s=(2, 3, 4), g=(4,), c=(4,)),
    case("y = LpNormalization (x)", x=(2, 3)),
    case("y = LpNormalization <axis = 0, p = 1> (x)", x=(2, 3)),
    case("y = LRN <size = 3, alpha = 0.2, beta = 0.6, bias = 2.0> (x)", x=(1, 5, 2, 2)),
    case("y = LRN <size = 4> (x)", x=(5, 5, 2, 2), reference=True),
    case("y = MeanVarianceNormalization (x)", x=(2, 3, 2, 2)),
    case("y = MeanVarianceNormalization <axes = [0, 2]> (x)", x=(2, 3, 2)),
    *(
        case(f"y = {name} <axis = 1> (x)", x=(2, 3, 4), smooth=name != "Hardmax")
        for name in ("Softmax", "LogSoftmax", "Hardmax")
    ),
    *(case(f"y = {name} (x)", x=(2, 3, 4), smooth=name != "Hardmax") for name in ("Softmax", "LogSoftmax", "Hardmax")),
    *(
        case(f"y = {name} (x)", opset=11, x=(2, 3, 4), smooth=name != "Hardmax")
        for name in ("Softmax", "LogSoftmax", "Hardmax")
    ),
]
