"""Which groups a network has, who makes and reads them, and why the rest stays."""

import time

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from removal import CLOSE, Case, analysed, check_every_removal, differences
from topologies import TOPOLOGIES

from onnxprune.grouping import SINGLE

Widths = dict[str, int | tuple[int, int]]
"""Group name → width, with the number of rows where the choice is not free."""

OPEN: dict[str, Widths] = {
    "resnet-text": {"Conv:s": 8, "Conv:a": 10, "Conv:c": 12, "Conv:d": 16},
    "vgg-text": {"Conv:c0": 8, "Conv:c1": 12, "Gemm:g0": 14},
    "inception-text": {"Conv:stem": 8, "Conv:a": 6, "Conv:b0": 5, "Conv:b1": 8, "Conv:c0": 6, "Conv:c1": 7}
    | {"Conv:d1": 4, "Conv:e": 10},
    "mobilenet-v2-text": {"Conv:stem": 8, "Conv:e0": 16, "Conv:e1": 12, "Conv:p1": 10, "Conv:last": 16},
    "squeeze-excitation-text": {"Conv:c0": 12, "Conv:s1": 4, "Conv:e": 16},
    "convnext-text": {"MatMul:m0": 20, "Conv:down": 12},
    "densenet-text": {"Conv:c0": 8, "Conv:c1": 6, "Conv:c2": 6, "Conv:t": 10},
    "shufflenet-text": {"Conv:c0": (8, 4), "Conv:c0#2": (8, 2), "Conv:a": (8, 2), "Conv:e": (12, 4)},
    "unet-text": {"Conv:e0": 8, "Conv:e1": 12, "Conv:m": 16, "ConvTranspose:u1": 10, "Conv:d1": (8, 2)}
    | {"ConvTranspose:g": (6, 2)},
    "yolo-head-text": {"Conv:c0": 8, "Conv:c0#2": 8, "Conv:i": 6, "Conv:c1": 12, "Conv:down": 10},
    "tied-convolutions-text": {"Conv:c0": 8, "Conv:c3": 12},
    "tensorflow-vgg-text": {"Conv:c0": 8, "Conv:c1": 12, "MatMul:m0": 14},
    "tensorflow-head-text": {"Conv:c0": 12},
    "keras-prelu-text": {"Conv:c0": 8, "Conv:c1": 10, "MatMul:m": 12},
    "perceptron-text": {"MatMul:m0": 10, "MatMul:m1": 14, "Gemm:g2": 10},
    "axis-play-text": {"Conv:c0": 8, "Conv:c0#2": 4, "Conv:c2": 10},
    "old-opset-text": {"Conv:c0": 4, "Conv:c0#2": 4, "Conv:c1": 2, "Conv:c1#2": 8},
}
OUTPUT = "it is an output of the model"
SPLIT = "its channels are split over axes"
SOFTMAX = "Softmax weighs its positions against each other"
LAYER_NORM = "LayerNormalization takes its mean and variance over it (--open normalised lets it go)"
CLOSED: dict[str, dict[str, str]] = {
    "resnet-text": {"Gemm:y": OUTPUT},
    "convnext-text": {"Conv:h": LAYER_NORM, "Conv:d": LAYER_NORM, "MatMul:m1": LAYER_NORM, "Gemm:y": OUTPUT},
    "yolo-head-text": {"Conv:box0": SPLIT, "Conv:cls0": OUTPUT, "Conv:box1": SPLIT, "Conv:cls1": OUTPUT}
    | {"Conv:dfl": OUTPUT},
    "keras-prelu-text": {"MatMul:mb": OUTPUT, "MatMul:mc": SOFTMAX},
}
FROM_TORCH: dict[str, list[int | tuple[int, int]]] = {
    "resnet": [8, 12, 16, 16, 10],
    "resnext": [8, (8, 4), (8, 4), 16, (8, 4), (8, 4), (12, 4), (12, 4), 20],
    "densenet": [8, 12, 6, 12, 6, 10, 12, 6],
    "mobilenet-v3": [8, 12, 4, 10, 16, 6, 16],
    "shufflenet-v1": [(12, 4), (4, 2)],
    "shufflenet-v2": [6, 6, 6, 4, 4, 10, 8, 8, 8],
    "unet": [8, 12, 16, 10, 12, 8],
    "convnext": [16, 20],
    "shared": [8],
}


def widths(case: Case) -> Widths:
    return {g.name: g.width if g.row_count == 1 else (g.width, g.row_count) for g in case.analysis.groups}


@pytest.mark.parametrize("name", OPEN)
def test_a_topology_has_the_groups_that_its_design_allows(name: str) -> None:
    assert widths(analysed(TOPOLOGIES[name]())) == OPEN[name]


@pytest.mark.parametrize("name", CLOSED)
def test_what_stays_whole_has_a_reason(name: str) -> None:
    assert analysed(TOPOLOGIES[name]()).reasons() == CLOSED[name]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("family", FROM_TORCH)
def test_both_exporters_of_torch_give_the_same_groups(family: str, exporter: str) -> None:
    pytest.importorskip("torch")
    assert list(widths(analysed(TOPOLOGIES[f"{family}-{exporter}"]())).values()) == FROM_TORCH[family]


def test_a_residual_stream_is_one_group_of_all_who_write_to_it() -> None:
    group = analysed(TOPOLOGIES["resnet-text"]()).group("Conv:s")
    assert [x.node.name for x in group.writers] == ["Conv:s", "Conv:b"]
    assert [x.node.name for x in group.readers] == ["Conv:a", "Conv:c", "Conv:p"]


def test_a_depthwise_convolution_and_a_gate_write_to_a_group_but_only_the_squeeze_reads_it() -> None:
    group = analysed(TOPOLOGIES["squeeze-excitation-text"]()).group("Conv:c0")
    assert [x.node.name for x in group.writers] == ["Conv:c0", "Conv:d", "Conv:s2"]
    assert [x.node.name for x in group.readers] == ["Conv:s1", "Conv:e"]


def test_a_dense_block_gives_each_producer_a_group_with_all_later_readers() -> None:
    group = analysed(TOPOLOGIES["densenet-text"]()).group("Conv:c0")
    assert [x.node.name for x in group.readers] == ["Conv:c1", "Conv:c2", "Conv:t"]


def test_the_names_of_a_group_are_those_that_make_and_carry_it_not_the_weights_that_sum_over_it() -> None:
    names = analysed(TOPOLOGIES["resnet-text"]()).group("Conv:a").names
    assert {"Conv:a", "a", "a_w", "n1_gamma", "ar"} <= names
    assert not {"b_w", "Conv:b"} & names


def net(middle: str, weights: Weights, shape: str = "N,3,6,6", inner: int = 8, outer: int = 8) -> onnx.ModelProto:
    """Conv c0 of `inner` channels, then what turns h into t, then Conv c1 that reads the `outer` channels of t."""
    body = f"c0 = Conv (x, c0_w) h = Relu (c0) {middle} c1 = Conv (t, c1_w) y = Relu (c1)"
    known: Weights = {"c0_w": (inner, 3, 1, 1), "c1_w": (4, outer, 1, 1)}
    return model_from_text(f"(float[{shape}] x) => (float[N,4,A,B] y)", body, known | weights)


TARGET = "d = Shape (v) e = Gather (d, one0) f = Div (e, two0) g = Unsqueeze (f, zero) "
NUMBERS: Weights = {"one0": np.int64(1), "two0": np.int64(2), "zero": integers(0), "one": integers(1)}
NUMBERS |= {"two": integers(2), "far": integers(2**31)}


def test_a_chunk_whose_bound_is_computed_from_the_channels_may_lose_unequally() -> None:
    # The first Reshape hides the static width from constant folding, as TorchScript's shuffles do.
    middle = "v = Reshape (h, hide) " + TARGET + "a = Slice (v, zero, g, one) b = Slice (v, g, far, one) "
    model = net(middle + "p = Relu (a) t = Concat <axis=1> (b, p)", {**NUMBERS, "hide": integers(0, -1, 6, 6)})
    case = analysed(model)
    assert widths(case) == {"Conv:c0": 4, "Conv:c0#2": 4}
    check_every_removal(case)
    keep = case.analysis.keep_without({case.analysis.groups[0].name: [0, 1, 2]})
    assert max(differences(case, keep)) < CLOSE


def test_a_reshape_to_half_the_channels_by_arithmetic_follows_halves_and_pairs() -> None:
    target = TARGET + "n = Shape <start=0, end=1> (h) k = Concat <axis=0> (n, two, g, six, six) "
    middle = "v = Reshape (h, hide) " + target + "r = Reshape (v, k) s = Transpose <perm=[0,2,1,3,4]> (r) "
    more: Weights = {"hide": integers(0, -1, 6, 6), "six": integers(6)}
    case = analysed(net(middle + "t = Reshape (s, hide)", {**NUMBERS, **more}))
    assert widths(case) == {"Conv:c0": 2, "Conv:c0#2": 4}
    check_every_removal(case)


def test_a_reshape_to_the_size_of_another_tensor_follows_only_if_both_lose_alike() -> None:
    middle = "d = Shape (h) v = Reshape (h, hide) t = Reshape (v, d)"
    case = analysed(net(middle, {"hide": integers(0, -1, 36)}))
    assert widths(case) == {"Conv:c0": 8}
    check_every_removal(case)
    other = "z = Conv (x, z_w) d = Shape (z) v = Reshape (h, hide) p = Reshape (v, d) t = Concat <axis=1> (p, z)"
    case = analysed(net(other, {"hide": integers(0, -1, 36), "z_w": (8, 3, 1, 1)}, outer=16))
    assert widths(case) == {}
    assert "size is computed from that of" in case.reasons()["Conv:c0"]


def test_a_copied_size_follows_its_source() -> None:
    case = analysed(
        net(
            "v = Reshape (h, copies) t = Reshape (v, back)",
            {"copies": integers(0, 0, -1), "back": integers(0, 0, 6, 6)},
        )
    )
    assert widths(case) == {"Conv:c0": 8}
    check_every_removal(case)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_squeeze_of_all_single_axes_keeps_a_channel_axis_of_which_one_position_stays(opset: int) -> None:
    body = "c0 = Conv (x, c0_w) h = Relu (c0) p = GlobalAveragePool (h) s = Squeeze (p) y = MatMul (s, y_w)"
    weights: Weights = {"c0_w": (3, 3, 1, 1), "y_w": (3, 2)}
    case = analysed(model_from_text("(float[N,3,6,6] x) => (float[N,2] y)", body, weights, opset))
    assert max(differences(case, case.analysis.keep_without({"Conv:c0": [0, 2]}))) < CLOSE


def test_a_size_of_channels_times_positions_follows() -> None:
    body = """
    c0 = Conv (x, c0_w) h = Relu (c0) d = Shape (h)
    n = Gather (d, zero) c = Gather (d, one) i = Gather (d, two) j = Gather (d, three)
    ci = Mul (c, i) cij = Mul (ci, j) k = Concat <axis=0> (n, cij) f = Reshape (h, k)
    y = Gemm (f, fc_w)
    """
    weights: Weights = {"c0_w": (8, 3, 1, 1), "fc_w": (288, 5), **NUMBERS, "three": integers(3)}
    case = analysed(model_from_text("(float[N,3,6,6] x) => (float[N,5] y)", body, weights))
    assert widths(case) == {"Conv:c0": 8}
    check_every_removal(case)


def test_a_size_that_becomes_a_real_number_keeps_its_value() -> None:
    """Attention's 1 / √d is computed from the width that the original has."""
    middle = "v = Reshape (h, hide) d = Shape (v) e = Gather (d, one0) q = Cast <to=1> (e) s = Sqrt (q) t = Div (h, s)"
    case = analysed(net(middle, {**NUMBERS, "hide": integers(0, -1, 6, 6)}))
    assert widths(case) == {"Conv:c0": 8}
    check_every_removal(case)


def test_a_size_that_something_else_counts_by_closes_the_group() -> None:
    middle = """v = Reshape (h, hide) d = Shape (v) e = Gather (d, one0) r = Range (zero0, e, one0)
        u = ReduceSum <keepdims=0> (r) q = Cast <to=1> (u) t = Div (h, q)"""
    case = analysed(net(middle, {**NUMBERS, "hide": integers(0, -1, 6, 6), "zero0": np.int64(0)}))
    assert widths(case) == {}
    assert "its size is an operand of Range:r" in case.reasons()["Conv:c0"]


def test_a_size_of_the_batch_closes_nothing() -> None:
    middle = "d = Shape (h) e = Gather (d, zero0) q = Cast <to=1> (e) t = Div (h, q)"
    assert widths(analysed(net(middle, {"zero0": np.int64(0)}))) == {"Conv:c0": 8}


def test_one_shape_constant_deep_in_a_chain_that_two_widths_share_closes_both() -> None:
    body = """
    a = Conv (x, a_w) b = Conv (x, b_w) d = Shape (x) n = Gather (d, zero) k = Concat <axis=0> (n, eight, rest)
    p = Reshape (a, k) q = Reshape (b, k) m = MatMul (p, m_w) o = MatMul (q, m_w)
    u = Unsqueeze (m, two) v = Unsqueeze (o, two) e = Conv (u, e_w) f = Conv (v, f_w) y = Add (e, f)
    """
    weights: Weights = {"a_w": (8, 3, 1, 1), "b_w": (8, 3, 1, 1), "zero": integers(0), "eight": integers(8)}
    weights |= {"rest": integers(36), "m_w": (36, 5), "two": integers(2), "e_w": (4, 8, 1, 1), "f_w": (4, 8, 1, 1)}
    model = model_from_text("(float[N,3,6,6] x) => (float[N,4,1,5] y)", body, weights)
    case = analysed(model)
    assert "takes one number for two different widths" in case.reasons()["Conv:a"]
    check_every_removal(case)


def test_picked_channels_are_numbered_anew() -> None:
    case = analysed(net("t = Gather <axis=1> (h, k)", {"k": integers(6, 0, -6, 5, 0, 7, 1)}, outer=7))
    assert sum(group.width for group in case.analysis.groups) == 8
    check_every_removal(case)
    keep = case.analysis.keep_without({group.name: [0] for group in case.analysis.groups if group.width > 1})
    assert max(differences(case, keep)) < CLOSE


ATTENTION = """
    e = MatMul (x, e_w) n = Tanh (e) q3 = MatMul (n, q_w) b3 = Add (q3, q_b) r = Reshape (b3, split)
    t = Transpose <perm=[2,0,3,1,4]> (r) {parts}
    kt = Transpose <perm=[0,1,3,2]> (k) s = MatMul (q, kt) p = Softmax <axis=-1> (s) o = MatMul (p, v)
    ot = Transpose <perm=[0,2,1,3]> (o) f = Reshape (ot, joined) g = MatMul (f, o_w) z = Add (g, n)
    y = MatMul (z, y_w)
"""
PARTS = {
    "gathers": "q = Gather (t, k0) k = Gather (t, k1) v = Gather (t, k2)",
    "slices": """q1 = Slice (t, a0, a1, a0) k1s = Slice (t, a1, a2, a0) v1 = Slice (t, a2, a3, a0)
        q = Squeeze (q1, a0) k = Squeeze (k1s, a0) v = Squeeze (v1, a0)""",
    "a split": "q1, k1s, v1 = Split <axis=0> (t) q = Squeeze (q1, a0) k = Squeeze (k1s, a0) v = Squeeze (v1, a0)",
}


@pytest.mark.parametrize("parts", PARTS)
def test_attention_loses_whole_heads_and_the_same_channels_of_every_head(parts: str) -> None:
    weights: Weights = {"e_w": (5, 12), "q_w": (12, 24), "q_b": (24,), "o_w": (8, 12), "y_w": (12, 3)}
    weights |= {"split": integers(0, 0, 3, 2, 4), "joined": integers(0, 0, 8)}
    weights |= {f"k{i}": np.int64(i) for i in range(3)} | {f"a{i}": integers(i) for i in range(4)}
    body = ATTENTION.format(parts=PARTS[parts])
    case = analysed(model_from_text("(float[N,7,5] x) => (float[N,7,3] y)", body, weights, opset=13))
    assert widths(case) == {"MatMul:e": 12, "MatMul:q3": 2, "MatMul:q3#2": 4}
    check_every_removal(case)


def test_negative_slice_bounds_hold_where_only_the_tail_loses() -> None:
    weights: Weights = {"s": integers(-6), "e": integers(-1), "a": integers(1)}
    case = analysed(net("t = Slice (h, s, e, a)", weights, outer=5))
    assert sorted(group.width for group in case.analysis.groups) == [3, 5]
    check_every_removal(case)


def test_an_unknown_operator_is_a_barrier_with_a_reason() -> None:
    model = net("t = Relu (h)", {})
    relu = next(node for node in model.graph.node if node.output[0] == "t")
    relu.domain, relu.op_type = "ai.onnx.ml", "Binarizer"
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    case = analysed(model)
    assert case.analysis.groups == ()
    assert case.reasons()["Conv:c0"] == "Binarizer (Binarizer:t) has no rule"


def test_a_barrier_tells_what_it_does_to_channels() -> None:
    case = analysed(net("r = RandomNormalLike (h) t = Add (h, r)", {}))
    assert case.analysis.groups == ()
    said = "RandomNormalLike (RandomNormalLike:r) draws random numbers, in an order that would change"
    assert case.reasons()["Conv:c0"] == said


def test_an_output_that_a_body_computes_closes_what_both_branches_read() -> None:
    body = """
    c0 = Conv (x, c0_w) h = Relu (c0) g = Conv (h, g_w) t = Relu (g) y = Conv (t, c1_w)
    top = ReduceMax <keepdims=0> (x) high = Greater (top, one)
    z = If (high) <then_branch = a () => (float[N,6,6,6] o) { o = Neg (t) },
                   else_branch = b () => (float[N,6,6,6] p) { p = Abs (t) }>
    """
    weights: Weights = {"c0_w": (8, 3, 1, 1), "g_w": (6, 8, 1, 1), "c1_w": (4, 6, 1, 1), "one": np.float32(1)}
    model = model_from_text("(float[N,3,6,6] x) => (float[N,4,6,6] y, float[N,6,6,6] z)", body, weights)
    case = analysed(model)
    assert widths(case) == {"Conv:c0": 8}
    assert case.reasons()["Conv:g"] == "it is an output of the model"
    check_every_removal(case)


def test_a_weight_that_is_also_read_as_a_plain_value_stays() -> None:
    body = """
    c0 = Conv (x, c0_w, k) h = Relu (c0) n = Softmax (k) e = Conv (h, e_w) r = Mul (e, n) y = Conv (r, f_w)
    """
    weights: Weights = {"c0_w": (8, 3, 1, 1), "k": (8,), "e_w": (5, 8, 1, 1), "f_w": (4, 5, 1, 1)}
    model = model_from_text("(float[N,3,6,8] x) => (float[N,4,6,8] y, float[A] k)", body, weights)
    case = analysed(model)
    assert widths(case) == {"Conv:e": 5}
    assert case.reasons()["Conv:c0"] == "'k' is also read where its channels are not known"
    check_every_removal(case)


def test_channels_that_can_only_go_together_make_no_group() -> None:
    case = analysed(net("t = Relu (h)", {}, inner=1, outer=1))
    assert case.analysis.groups == ()
    assert case.reasons()["Conv:c0"] == SINGLE


def test_a_chain_of_thousands_of_nodes_that_share_their_weights_is_analysed_in_seconds() -> None:
    blocks = 700
    lines = [f"c{i} = Conv (h{i}, b_w, b_b) r{i} = Relu (c{i}) h{i + 1} = Add (r{i}, h{i})" for i in range(blocks)]
    weights: Weights = {"a_w": (4, 3, 1, 1), "b_w": np.full((4, 4, 1, 1), 1e-3, np.float32), "b_b": (4,)}
    text = f"h0 = Conv (x, a_w) {' '.join(lines)} y = Conv (h{blocks}, c_w)"
    model = model_from_text("(float[N,3,2,2] x) => (float[N,2,2,2] y)", text, weights | {"c_w": (2, 4, 1, 1)})
    start = time.process_time()
    assert widths(analysed(model)) == {"Conv:h0": 4}
    assert time.process_time() - start < 10
