"""Operators between two convolutions: what can go there, and that it leaves what masking leaves."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from removal import analysed, check_every_removal

F32 = np.float32
RNG = np.random.default_rng(0)
BOXES = {"boxes": np.array([[0, 0, 3, 3], [1, 1, 5, 5]], F32), "of": integers(0, 1)}
PLACES = RNG.uniform(-1, 1, (2, 5, 5, 2)).astype(F32)
SPOTS = RNG.integers(0, 6, (2, 8, 3, 6))
NORM: Weights = {"g": (8, 1, 1), "b": (8, 1, 1), "one": np.ones(4, F32), "zero": np.zeros(4, F32)}


@dataclass(frozen=True)
class Between:
    """Nodes from `h` (N, channels, 6, 6), behind a convolution, to `t` with `outer` channels, before another."""

    nodes: str
    widths: dict[str, int]
    weights: Weights = field(default_factory=dict)
    channels: int = 8
    outer: int = 8
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        body = f"c0 = Conv (x, c0_w, c0_b) h = Relu (c0) {self.nodes} y = Conv (t, c1_w, c1_b)"
        weights: Weights = {"c0_w": (self.channels, 3, 1, 1), "c0_b": (self.channels,), "c1_w": (4, self.outer, 1, 1)}
        weights |= {"c1_b": (4,), **self.weights}
        return model_from_text("(float[N,3,6,6] x) => (float[A,B,C,D] y)", body, weights, self.opset)


ALL = {"Conv:c0": 8}
DEFORM = "o = Conv <pads=[1,1,1,1]> (x, o_w) d = DeformConv <pads=[1,1,1,1], kernel_shape=[3,3]{more}> (h, d_w, o, d_b)"
UNPOOL = "p, i = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h) q = Relu (p) "
GELUS = "a = com.microsoft.BiasGelu (u, b) c = com.microsoft.FastGelu (a, b) d = com.microsoft.QuickGelu (c) "
GELUS = (
    "u = Transpose <perm=[0,2,3,1]> (h) "
    + GELUS
    + "f = com.microsoft.FastGelu (d) e = com.microsoft.Gelu (f) t = Transpose <perm=[0,3,1,2]> (e)"
)
FUSED = 'com.microsoft.FusedConv <activation="Relu", pads=[1,1,1,1], kernel_shape=[3,3]{more}>'
GROUPS = "r = Reshape (h, s) i = InstanceNormalization (r, one, zero) u = Shape (h) j = Reshape (i, u) m = Mul (j, g) "

NETWORKS = {
    "DepthToSpace takes all channels of a block": Between(
        "t = DepthToSpace <blocksize=2> (h)", {"Conv:c0": 3}, channels=12, outer=3
    ),
    "DepthToSpace, channel by channel": Between(
        't = DepthToSpace <blocksize=2, mode="CRD"> (h)', {"Conv:c0": 3}, channels=12, outer=3
    ),
    "SpaceToDepth repeats each channel": Between("t = SpaceToDepth <blocksize=2> (h)", ALL, outer=32),
    "Col2Im takes all columns of a channel": Between(
        "r = Reshape (h, s) t = Col2Im (r, i, k)",
        {"Conv:c0": 2},
        {"s": integers(0, 8, 36), "i": integers(7, 7), "k": integers(2, 2)},
        outer=2,
        opset=18,
    ),
    "GroupNormalization loses whole groups": Between(
        "t = GroupNormalization <num_groups=4> (h, g, b)", {"Conv:c0": 4}, {"g": (8,), "b": (8,)}, opset=21
    ),
    "groups normalised as instances": Between(
        GROUPS + "t = Add (m, b)", {"Conv:c0": 4}, {**NORM, "s": integers(0, 4, -1)}
    ),
    "CumSum along the height": Between("t = CumSum (h, k)", ALL, {"k": np.int64(2)}),
    "TopK along the width": Between("t, i = TopK <axis=-1> (h, k)", ALL, {"k": integers(3)}),
    "Trilu": Between("t = Trilu (h)", ALL),
    "onnxruntime's Trilu": Between("t = com.microsoft.Trilu (h)", ALL),
    "Compress": Between("t = Compress <axis=2> (h, k)", ALL, {"k": np.array([1, 0, 1, 1], np.bool_)}),
    "Det": Between("d = Det (h) t = Unsqueeze (d, m)", ALL, {"m": integers(2, 3)}),
    "DFT": Between(
        "u = Unsqueeze (h, m) d = DFT <axis=2> (u) t = ReduceSum <keepdims=0> (d, m)", ALL, {"m": integers(-1)}
    ),
    "ReverseSequence": Between(
        "u = Transpose <perm=[2,0,1,3]> (h) r = ReverseSequence <time_axis=0, batch_axis=1> (u, k) "
        "t = Transpose <perm=[1,2,0,3]> (r)",
        ALL,
        {"k": integers(3, 4)},
    ),
    "CenterCropPad": Between("t = CenterCropPad <axes=[2]> (h, k)", ALL, {"k": integers(4)}, opset=18),
    "OneHot of each channel's best column": Between(
        "a = ArgMax <axis=3, keepdims=0> (h) t = OneHot <axis=-1> (a, d, v)",
        ALL,
        {"d": np.int64(6), "v": np.array([0, 1], F32)},
    ),
    "GridSample": Between("t = GridSample (h, g)", ALL, {"g": PLACES}),
    "RoiAlign": Between("t = RoiAlign (h, boxes, of)", ALL, {**BOXES}),
    "MaxUnpool": Between(UNPOOL + "t = MaxUnpool <kernel_shape=[2,2], strides=[2,2]> (q, i)", ALL),
    "indices of MaxPool that are read": Between(UNPOOL + "f = Cast <to=1> (i) t = Add (q, f)", {}),
    "DeformConv": Between(
        DEFORM.format(more="") + "t = Relu (d)",
        {**ALL, "DeformConv:d": 6},
        {"o_w": (18, 3, 3, 3), "d_w": (6, 8, 3, 3), "d_b": (6,)},
        outer=6,
        opset=19,
    ),
    "DeformConv through two sets of windows": Between(
        DEFORM.format(more=", offset_group=2") + "t = Relu (d)",
        {**ALL, "DeformConv:d": 6},
        {"o_w": (36, 3, 3, 3), "d_w": (6, 8, 3, 3), "d_b": (6,)},
        outer=6,
        opset=19,
    ),
    "Swish": Between("t = Swish (h)", ALL, opset=24),
    "Gelus of onnxruntime": Between(GELUS, ALL, {"b": (8,)}),
    "FusedConv with a shortcut": Between(
        "z = Conv (x, z_w) t = " + FUSED.format(more="") + " (h, f_w, f_b, z)",
        {**ALL, "Conv:z": 6},
        {"z_w": (6, 3, 1, 1), "f_w": (6, 8, 3, 3), "f_b": (6,)},
        outer=6,
    ),
    "FusedConv, depthwise": Between(
        "t = " + FUSED.format(more=", group=8") + " (h, f_w, f_b)", ALL, {"f_w": (8, 1, 3, 3), "f_b": (8,)}
    ),
    "FusedGemm": Between(
        "a = GlobalAveragePool (h) f = Flatten (a) "
        'g = com.microsoft.FusedGemm <activation="Relu", transB=1> (f, g_w, g_b) t = Unsqueeze (g, m)',
        {**ALL, "FusedGemm:g": 6},
        {"g_w": (6, 8), "g_b": (6,), "m": integers(2, 3)},
        outer=6,
    ),
    "Gather of a table of channels": Between(
        "s = Gather <axis=1> (h, k) t = Reshape (s, sh)",
        {"Conv:c0": 2, "Conv:c0#2": 3, "Conv:c0#3": 2},
        {"k": np.array([[0, 3, 5], [2, 7, 1]]), "sh": integers(0, -1, 6, 6)},
        outer=6,
    ),
    "Gather of more channels than a shape has axes": Between(
        "t = Gather <axis=1> (h, k)", {"Conv:c0": 96}, {"k": np.arange(96)[::-1].copy()}, channels=96, outer=96
    ),
    "GatherElements by indices of the same channels": Between(
        "v, i = TopK <axis=2> (h, k) a = Neg (h) t = GatherElements <axis=2> (a, i)", ALL, {"k": integers(3)}
    ),
    "GatherElements by constant indices": Between("t = GatherElements <axis=2> (h, i)", ALL, {"i": SPOTS}),
    "ScatterElements": Between(
        "a = Neg (h) v, i = TopK <axis=2> (a, k) t = ScatterElements <axis=2> (h, i, v)", ALL, {"k": integers(3)}
    ),
    "Scatter": Between("t = Scatter <axis=2> (h, i, v)", ALL, {"i": SPOTS, "v": (2, 8, 3, 6)}, opset=10),
    "GatherND and ScatterND before the channels": Between(
        "u = Transpose <perm=[2,3,0,1]> (h) g = GatherND (u, i) r = Neg (g) s = ScatterND (u, j, r) "
        "t = Transpose <perm=[2,3,0,1]> (s)",
        ALL,
        {"i": np.array([[0, 0], [1, 2]]), "j": np.array([[3, 0], [1, 4]])},
    ),
    "TensorScatter": Between(
        "p = Slice (h, s, e, a) q = Neg (p) t = TensorScatter <axis=2> (h, q)",
        ALL,
        {"s": integers(0), "e": integers(2), "a": integers(2)},
        opset=24,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_between_two_convolutions_leaves_what_masking_leaves(name: str) -> None:
    case = analysed(NETWORKS[name].model(), folded=True)
    assert case.widths() == NETWORKS[name].widths
    check_every_removal(case)


CLOSED = {
    "LRN": ("t = LRN <size=3> (h)", {}, "LRN weighs its channels against their neighbours"),
    "CumSum": ("t = CumSum (h, k)", {"k": np.int64(1)}, "CumSum adds up along its axis"),
    "TopK": ("t, i = TopK <axis=1> (h, k)", {"k": integers(8)}, "TopK ranks its positions"),
    "GatherElements": (
        "t = GatherElements <axis=1> (h, i)",
        {"i": RNG.integers(0, 8, (2, 8, 6, 6))},
        "GatherElements picks positions along its axis, or only some",
    ),
    "ScatterElements": (
        "t = ScatterElements <axis=1> (h, i, v)",
        {"i": RNG.integers(0, 8, (2, 3, 6, 6)), "v": (2, 3, 6, 6)},
        "ScatterElements writes along its axis, or only a part",
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_works_along_the_channels_keeps_them_and_says_why(name: str) -> None:
    nodes, weights, reason = CLOSED[name]
    case = analysed(Between(nodes, {}, weights).model())
    assert case.reasons()["Conv:c0"] == reason
    assert case.widths() == {}
