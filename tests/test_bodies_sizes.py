"""Sizes, products and normalisations in bodies: rewritten, masked and left where they stand."""

import numpy as np
import onnx
import pytest
from graph_text import Weights, batchnorm, integers, model_from_text
from removal import analysed, check_every_removal
from test_bodies import CLOSE, branching, check_both_ways

from onnxprune.graph import nodes_by_name
from onnxprune.passes.remove import remove
from onnxprune.pipeline import compress


def test_sizes_in_a_body_follow_what_goes() -> None:
    split = "l, r = Split <axis=1> (h, halves) s = Concat <axis=1> (r, l) o = Conv (s, a_w)"
    reshape = "f = Reshape (h, flat) t = Transpose <perm=[0, 2, 1]> (f) m = MatMul (t, b_w) o = Reshape (m, back)"
    weights: Weights = {"halves": integers(3, 5), "flat": integers(0, 8, -1), "a_w": (6, 8, 1, 1), "b_w": (8, 6)}
    back = "back = Constant <value = int64[4] {-1, 6, 6, 6}> ()"
    case = branching(split, f"{back} {reshape}", weights)
    assert sorted(case.widths().values()) == [3, 5]
    check_both_ways(case)
    keep = case.analysis.keep_all()
    for group in case.analysis.groups:
        keep[group.units[: group.width // 2]] = False
    nodes = nodes_by_name(remove(case.analysis, keep))
    assert nodes["Split:l"].inputs[1].const_value.numpy().tolist() == [2, 3]
    assert nodes["Reshape:f"].inputs[1].const_value.numpy().tolist() == [0, 5, -1]


def test_a_size_that_a_body_computes_from_an_outer_shape_follows() -> None:
    then = """full = Shape (h) n = Gather (full, first) c = Gather (full, second) nu = Unsqueeze (n, axis0)
        cu = Unsqueeze (c, axis0) to = Concat <axis=0> (nu, cu, rest) f = Reshape (h, to) b = Unsqueeze (f, axis3)
        t = Transpose <perm=[0, 1, 3, 2]> (b) k = Conv (t, a_w) o = Reshape (k, back)"""
    weights: Weights = {"first": np.int64(0), "second": np.int64(1), "axis0": integers(0), "axis3": integers(3)}
    weights |= {"rest": integers(-1), "back": integers(0, 0, 6, 6), "a_w": (6, 8, 1, 1), "b_w": (6, 8, 1, 1)}
    case = branching(then, "o = Conv (h, b_w)", weights)
    assert case.widths()["Conv:c0"] == 8
    check_both_ways(case)


def test_a_product_of_activations_in_a_body_loses_what_it_sums_over() -> None:
    then = """f = Reshape (h, flat) t = Transpose <perm=[0, 2, 1]> (f) q = MatMul (t, q_w) k = MatMul (t, k_w)
        kt = Transpose <perm=[0, 2, 1]> (k) s = MatMul (q, kt) n = MatMul (s, n_w) u = Transpose <perm=[0, 2, 1]> (n)
        o = Reshape (u, back)"""
    weights: Weights = {"flat": integers(0, 8, 36), "back": integers(0, 6, 6, 6), "b_w": (6, 8, 1, 1)}
    weights |= {"q_w": (8, 5), "k_w": (8, 5), "n_w": (36, 6)}
    case = branching(then, "o = Conv (h, b_w)", weights)
    assert case.widths()["MatMul:q"] == 5
    check_both_ways(case)


@pytest.mark.parametrize("folded", [False, True])
def test_a_normalisation_in_a_branch_is_not_folded_into_the_layer_before_the_branch(folded: bool) -> None:
    body = """
    c0 = Conv (x, c0_w) sum = ReduceSum <keepdims=0> (x) high = Greater (sum, zero)
    z = If (high) <then_branch = a () => (float[N,C,6,6] o) {
        o = BatchNormalization (c0, n_gamma, n_beta, n_mean, n_var) },
                   else_branch = b () => (float[N,C,6,6] o) { o = Identity (two) }>
    y = Conv (z, y_w)
    """
    weights: Weights = {"c0_w": (8, 3, 1, 1), "y_w": (4, 8, 1, 1), "zero": np.float32(-1e9), "two": (2, 8, 6, 6)}
    model = model_from_text("(float[N,3,6,6] x) => (float[N,4,6,6] y)", body, weights | batchnorm("n", 8))
    case = analysed(model, folded)
    assert "BatchNormalization" in {node.op_type for node in nodes_by_name(case.analysis.model).values()}
    assert case.reasons()["Conv:c0"] == "the other branch of If has no such channels"
    check_every_removal(case)


def test_layers_around_a_body_are_folded_and_solved() -> None:
    body = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w) n = BatchNormalization (c0, n_gamma, n_beta, n_mean, n_var) h = Relu (n)
    sum = ReduceSum <keepdims=0> (x) high = Greater (sum, zero)
    z = If (high) <then_branch = a () => (float[N,C,6,6] o) { o = Abs (h) },
                   else_branch = b () => (float[N,C,6,6] o) { o = Sqrt (h) }>
    c1 = Conv (z, c1_w) g = Relu (c1) y = Conv (g, y_w)
    """
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c1_w": (6, 8, 1, 1), "y_w": (4, 6, 1, 1), "zero": np.float32(0)}
    model = model_from_text("(float[N,3,6,6] x) => (float[N,4,6,6] y)", body, weights | batchnorm("n", 8))
    inputs = np.random.default_rng(3).standard_normal((48, 3, 6, 6)).astype(np.float32)
    result = compress(model, calib=inputs, ratio=0.5, align=1, samples=40, measure=False)
    assert {group.name: group.kept for group in result.report.groups} == {"Conv:c0": 4, "Conv:c1": 3}
    assert result.report.proof < CLOSE
    onnx.checker.check_model(result.model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in result.model.graph.node}
    solved = {group.name for group in result.report.groups if group.error is not None}
    assert solved == {"Conv:c0", "Conv:c1"}
