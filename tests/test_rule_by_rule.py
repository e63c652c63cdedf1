"""Each operator that works position by position, pools or reduces, by name: what can go leaves what masking leaves."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, integers, model_from_text
from removal import CLOSE, Case, analysed, check_every_removal, differences, removals
from topologies import feeds

from onnxprune.op_rules.elementwise import BROADCAST, UNARY
from onnxprune.op_rules.reduce import POOLS, REDUCTIONS

LOGICAL, WHOLE_NUMBERS = (
    {"And", "Not", "Or", "Xor"},
    {"BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"},
)
ATTRIBUTES = {"BitCast": "<to=6>", "Cast": "<to=12>", "Mod": "<fmod=1>", "BitShift": '<direction="LEFT">'}
SINGULAR = {"Acosh", "Div", "Inverse", "Log", "Mod", "Reciprocal", "ReduceLogSum"}
"""Of zero they are no number: masks on what they read would hide nothing."""
ATTRIBUTES |= dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), "<kernel_shape=[2,2]>")
OPSETS = {"Swish": 24, "BitCast": 26, "SwiGLU": 27, "Gelu": 20}
READY = """
c0 = Conv (x, c0_w, c0_b) s0 = Sigmoid (c0) c1 = Conv (x, c1_w, c1_b) s1 = Sigmoid (c1)
e0 = Add (s0, one) e1 = Add (s1, one)
b0 = Greater (s0, half) b1 = Greater (s1, half)
m0 = Mul (s0, eight) m1 = Mul (s1, eight) i0 = Cast <to=12> (m0) i1 = Cast <to=12> (m1)
"""


def case(nodes: str, weights: Weights | None = None, opset: int = 18) -> Case:
    """`nodes` lead from s0, s1 in (0, 1), e0 and e1 beyond 1, b0, b1 (true or not), i0, i1 (whole) to t; then a layer.

    Skips where the runtime has no such operator.
    """
    own: Weights = {"c0_w": (6, 3, 1, 1), "c0_b": (6,), "c1_w": (6, 3, 1, 1), "c1_b": (6,), "y_w": (4, 6, 1, 1)}
    own |= {"one": np.float32(1), "half": np.float32(0.5), "eight": np.float32(8), "places": integers(2, 3)}
    body = f"{READY} {nodes} real = Cast <to=1> (t) y = Conv (real, y_w)"
    model = model_from_text("(float[N,3,6,6] x) => (float[A,B,C,D] y)", body, own | (weights or {}), opset)
    try:
        run(model, feeds(model))
    except Exception as error:
        pytest.skip(f"the runtime does not run it: {str(error)[:80]}")
    return analysed(without_what_is_not_read(model))


def without_what_is_not_read(model: onnx.ModelProto) -> onnx.ModelProto:
    needed = {"y"}
    for node in reversed(list(model.graph.node)):
        if needed.isdisjoint(node.output):
            model.graph.node.remove(node)
        else:
            needed.update(node.input)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in needed]:
        model.graph.initializer.remove(tensor)
    return model


def operand(kind: str, number: int) -> str:
    if kind == "Cast":
        return f"m{number}"
    return f"{'b' if kind in LOGICAL else 'i' if kind in WHOLE_NUMBERS else 'e' if kind == 'Acosh' else 's'}{number}"


def check(found: Case, kind: str) -> None:
    """Hold every removal to the wide graph, and to masks where zeros are allowed."""
    if kind not in SINGULAR:
        check_every_removal(found)
    for removed in removals(found.analysis.groups, 3):
        assert differences(found, found.analysis.keep_without(removed))[0] < CLOSE, removed


@pytest.mark.parametrize("kind", UNARY)
def test_channels_pass_an_operator_of_one_input(kind: str) -> None:
    nodes = f"t = {kind} {ATTRIBUTES.get(kind, '')} ({operand(kind, 0)})"
    found = case(nodes, opset=OPSETS.get(kind, 18))
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)


@pytest.mark.parametrize("kind", BROADCAST)
def test_channels_that_meet_go_together(kind: str) -> None:
    inputs = ["b0"] * (kind == "Where") + [operand(kind, 0), operand(kind, 1)]
    nodes = f"t = {kind} {ATTRIBUTES.get(kind, '')} ({', '.join(inputs)})"
    found = case(nodes, opset=OPSETS.get(kind, 18))
    assert found.widths() == {"Conv:c0": 6}
    assert kind == "CastLike" or {linear.node.name for linear in found.group("Conv:c0").writers} == {
        "Conv:c0",
        "Conv:c1",
    }
    check(found, kind)


@pytest.mark.parametrize("kind", [kind for kind in BROADCAST if kind != "SwiGLU"])
def test_a_constant_that_channels_meet_is_cut_along(kind: str) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.uniform(0.2, 0.9, (6, 1, 1)).astype(np.float32)
    dtype = np.bool_ if kind in LOGICAL else np.uint32 if kind in WHOLE_NUMBERS else np.float32
    constant = numbers > 0.5 if kind in LOGICAL else (numbers * 8).astype(dtype) if dtype == np.uint32 else numbers
    inputs = ["b0"] * (kind == "Where") + [operand(kind, 0), "k"]
    found = case(f"t = {kind} {ATTRIBUTES.get(kind, '')} ({', '.join(inputs)})", {"k": constant})
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)


@pytest.mark.parametrize("kind", POOLS)
def test_channels_pass_a_pool(kind: str) -> None:
    found = case(f"t = {kind} {ATTRIBUTES.get(kind, '')} (s0)")
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)


@pytest.mark.parametrize("kind", [f"Reduce{name}" for name in REDUCTIONS])
def test_channels_pass_a_reduction_over_places_and_stay_where_one_sums_over_them(kind: str) -> None:
    found = case(f"t = {kind} (s0, places)")
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)
    held = case(f"r = {kind} (s0, channels) t = Mul (s1, r)", {"channels": integers(1)})
    assert held.widths() == {"Conv:c1": 6}
    assert "reduces over its axis" in held.reasons()["Conv:c0"]


@pytest.mark.parametrize("kind", ["ArgMax", "ArgMin", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization"])
def test_channels_pass_what_weighs_columns_and_stay_where_it_weighs_them(kind: str) -> None:
    found = case(f"t = {kind} <axis=3> (s0)")
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)
    assert case(f"r = {kind} <axis=1> (s0) f = Cast <to=1> (r) t = Mul (s1, f)").widths().get("Conv:c0") is None


OWN: dict[str, tuple[str, Weights]] = {
    "ScaledSiLU": ("t = com.microsoft.ScaledSiLU (s0)", {}),
    "GatedAdd": ("g = ReduceMean (s1, last) t = com.microsoft.GatedAdd (s0, s1, g)", {"last": integers(3)}),
    "ExpandDims": (
        "u = com.microsoft.ExpandDims (s0, at) t = Squeeze (u, two)",
        {"at": np.int32(2), "two": integers(2)},
    ),
    "Pad": ("t = com.microsoft.Pad (s0, pads, half)", {"pads": integers(0, 0, 1, 1, 0, 0, 1, 1)}),
    "GridSample": ("t = com.microsoft.GridSample (s0, grid)", {"grid": np.zeros((2, 4, 4, 2), np.float32)}),
    "Inverse": ("t = com.microsoft.Inverse (s0)", {}),
    "CropAndResize": (
        "t = com.microsoft.CropAndResize (s0, boxes, of, size)",
        {"boxes": np.array([[0, 0, 0.5, 1]] * 2, np.float32), "of": np.array([0, 1], np.int32)}
        | {"size": np.array([3, 3], np.int32)},
    ),
    "MaxRoiPool": (
        "t = MaxRoiPool <pooled_shape=[2,2]> (s0, rois)",
        {"rois": np.array([[0, 0, 0, 3, 3], [1, 1, 1, 5, 5]], np.float32)},
    ),
    "GatherND": (
        "l = Transpose <perm=[0,2,3,1]> (s0) g = com.microsoft.GatherND (l, at) t = Unsqueeze (g, places)",
        {"at": np.array([[0, 1, 2], [1, 3, 3]], np.int64)},
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_channels_pass_an_operator_of_the_runtimes_own(kind: str) -> None:
    nodes, weights = OWN[kind]
    found = case(nodes, weights)
    assert found.widths() == {"Conv:c0": 6}
    check(found, kind)
