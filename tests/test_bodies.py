"""Channels inside and through bodies of control flow, and what the proof sees of them."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, integers, model_from_text
from removal import CLOSE, Case, analysed, check_every_removal, differences, proto, removals
from topologies import feeds

from onnxprune.dependency import analyse
from onnxprune.errors import ProofFailed
from onnxprune.graph import constants, every_node
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.pipeline import compress
from onnxprune.trace import trace
from onnxprune.verify import prove

HEAD = """
    c0 = Conv (x, c0_w) h = Relu (c0)
    sum = ReduceSum <keepdims=0> (x) high = Greater (sum, zero)
"""
KNOWN: Weights = {"c0_w": (8, 3, 1, 1), "zero": np.float32(0), "y_w": (4, 6, 1, 1)}
MAPS = "float[N,C,6,6]"


def branching(then: str, otherwise: str, weights: Weights) -> Case:
    """h (8 channels) → z = If (…) { then } { otherwise } → y; positive inputs take the first branch."""
    body = f"""{HEAD}
    z = If (high) <then_branch = a () => ({MAPS} o) {{ {then} }}, else_branch = b () => ({MAPS} o) {{ {otherwise} }}>
    y = Conv (z, y_w)"""
    return positive(model_from_text("(float[N,3,6,6] x) => (float[N,4,6,6] y)", body, KNOWN | weights))


def positive(model: onnx.ModelProto) -> Case:
    """Analysed on inputs that take the first branch."""
    inputs = {name: np.abs(array) for name, array in feeds(model, seed=1).items()}
    normal = normalise(load(model).model)
    return Case(analyse(normal, trace(normal, inputs)), inputs)


def check_both_ways(case: Case) -> None:
    """Every removal leaves what masking leaves, whichever branch is taken, and can be proved."""
    x = np.abs(case.inputs["x"])
    for removed in removals(case.analysis.groups, seed=3):
        keep = case.analysis.keep_without(removed)
        for inputs in ({"x": x}, {"x": -x}):
            assert max(differences(case, keep, inputs)) < CLOSE, removed
            assert prove(case.analysis, remove(case.analysis, keep), keep, inputs) < CLOSE


def test_both_branches_sum_over_an_outer_channel_and_make_new_ones_that_go_together() -> None:
    case = branching("o = Conv (h, a_w)", "p = Conv (h, b_w) o = Relu (p)", {"a_w": (6, 8, 1, 1), "b_w": (6, 8, 1, 1)})
    assert case.widths() == {"Conv:c0": 8, "Conv:o": 6}
    check_both_ways(case)
    keep = case.analysis.keep_without({"Conv:c0": [1, 5], "Conv:o": [0, 2, 3]})
    slim = remove(case.analysis, keep)
    assert {v.name: v.const_value.shape.numpy() for v in constants(slim) if v.name.endswith("w")} == {
        "c0_w": (6, 3, 1, 1),
        "a_w": (3, 6, 1, 1),
        "b_w": (3, 6, 1, 1),
        "y_w": (4, 3, 1, 1),
    }


def test_a_channel_passes_through_both_branches() -> None:
    case = branching("o = Neg (h)", "p = Relu (h) o = Mul (p, two)", {"two": np.float32(2), "y_w": (4, 8, 1, 1)})
    assert case.widths() == {"Conv:c0": 8}
    check_both_ways(case)


def test_channels_pass_through_nested_branches() -> None:
    inner = """q = Abs (h) low = Less (sum, ten)
        o = If (low) <then_branch = c () => (float[N,C,6,6] i) { i = Conv (q, a_w) },
                      else_branch = d () => (float[N,C,6,6] i) { i = Conv (q, b_w) }>"""
    weights: Weights = {f"{name}_w": (6, 8, 1, 1) for name in "abe"} | {"ten": np.float32(10)}
    case = branching(inner, "o = Conv (h, e_w)", weights)
    assert case.widths() == {"Conv:c0": 8, "Conv:i": 6}
    check_both_ways(case)
    for removed in removals(case.analysis.groups, seed=4):
        assert max(differences(case, case.analysis.keep_without(removed), {"x": case.inputs["x"] * 0 + 0.01})) < CLOSE


@pytest.mark.parametrize(
    ("otherwise", "reason"),
    [
        ("o = Expand (zero, s)", "the other branch of If has no such channels"),
        ("f = Flatten (h) o = Reshape (f, bad)", "the branches of If give different ranks, or one does not run"),
        ("o = Flatten (h)", "the branches of If give different ranks"),
    ],
)
def test_a_branch_without_the_other_one_s_channels_keeps_them_and_says_why(otherwise: str, reason: str) -> None:
    weights: Weights = {"s": integers(1, 6, 6, 6), "bad": integers(7, -1, 6, 6), "a_w": (6, 8, 1, 1)}
    case = branching("o = Conv (h, a_w)", otherwise, weights)
    assert case.reasons()["Conv:o"].startswith(reason)


def test_what_a_branch_reads_that_does_not_run_stays() -> None:
    weights: Weights = {"bad": integers(7, -1, 6, 6), "a_w": (6, 8, 1, 1)}
    case = branching("o = Conv (h, a_w)", "f = Mul (h, h) o = Reshape (f, bad)", weights)
    assert case.analysis.groups == ()
    assert case.reasons()["Conv:c0"] == "Mul (Mul:f) is not known to run"


def test_names_that_both_branches_use_are_told_apart() -> None:
    case = branching(
        "t = Relu (h) w = Identity (a_w) o = Conv (t, w)",
        "t = Neg (h) w = Identity (b_w) o = Conv (t, w)",
        {"a_w": (6, 8, 1, 1), "b_w": (6, 8, 1, 1)},
    )
    names = [value.name for node in every_node(case.analysis.model) for value in node.outputs]
    assert len(set(names)) == len(names)
    assert {"c0", "h", "z", "y"} <= set(names)
    check_both_ways(case)


def test_a_weight_inside_a_body_is_sliced_and_counted() -> None:
    case = branching("o = Conv (h, a_w)", "o = Conv (h, b_w)", {"a_w": (6, 8, 1, 1), "b_w": (6, 8, 1, 1)})
    moved = proto(case.analysis.model)
    node = next(node for node in moved.graph.node if node.op_type == "If")
    for attribute, name in zip(node.attribute, ("a_w", "b_w"), strict=True):
        tensor = next(t for t in moved.graph.initializer if t.name == name)
        attribute.g.initializer.append(tensor)
        moved.graph.initializer.remove(tensor)
    case = positive(moved)
    assert case.widths() == {"Conv:c0": 8, "Conv:o": 6}
    check_both_ways(case)


STEP = """
    sum = ReduceSum <keepdims=0> (x) e = MatMul (x, e_w) t = Relu (e)
    last = Loop (count, go, x) <body = step (int64 i, bool cond, float[N,4] s) => (bool again, float[N,4] next) {
        again = Identity (cond) u = MatMul (s, u_w) r = Relu (u) d = MatMul (r, d_w) k = MatMul (t, k_w)
        n = Add (d, k) next = Tanh (n) }>
    y = MatMul (last, y_w)
"""
LOOP: Weights = {"e_w": (4, 7), "u_w": (4, 9), "d_w": (9, 4), "k_w": (7, 4), "y_w": (4, 2), "go": np.bool_(True)}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_a_loop_makes_and_uses_up_in_a_pass_goes_and_so_does_what_it_reads_from_outside(count: int) -> None:
    model = model_from_text("(float[N,4] x) => (float[N,2] y)", STEP, LOOP | {"count": np.int64(count)})
    case = analysed(model)
    assert case.widths() == {"MatMul:e": 7, "MatMul:u": 9}
    assert case.reasons()["MatMul:d"].startswith("Loop hands it")
    check_every_removal(case)
    keep = case.analysis.keep_without({"MatMul:u": [0, 4]})
    assert prove(case.analysis, remove(case.analysis, keep), keep, case.inputs) < CLOSE


def test_a_loop_that_collects_a_sequence_keeps_what_it_reads_and_the_rest_goes() -> None:
    body = """
    e = MatMul (x, e_w) t = Relu (e) u = MatMul (t, u_w) empty = SequenceEmpty ()
    list = Loop (count, go, empty)
        <body = step (int64 i, bool cond, seq(float[A,B]) s0) => (bool again, seq(float[A,B]) s1) {
        again = Identity (cond) v = MatMul (u, k_w) s1 = SequenceInsert (s0, v) }>
    y = ConcatFromSequence <axis = 0, new_axis = 1> (list)
    """
    weights = {"e_w": (4, 7), "u_w": (7, 9), "k_w": (9, 2), "go": np.bool_(True), "count": np.int64(2)}
    case = analysed(model_from_text("(float[N,4] x) => (float[A,N,2] y)", body, weights))
    assert case.widths() == {"MatMul:e": 7}
    assert case.reasons()["MatMul:u"] == "MatMul (MatMul:v) is not known to run"
    check_every_removal(case)


def test_a_slice_that_moves_with_the_passes_keeps_its_channels() -> None:
    body = """
    last = Loop (count, go, x) <body = step (int64 i, bool cond, float[N,4] s) => (bool again, float[N,4] next) {
        again = Identity (cond) u = MatMul (s, u_w) start = Unsqueeze (i, axis0) end = Add (start, four)
        r = Slice (u, start, end, axis1) d = MatMul (r, d_w) next = Tanh (d) }>
    y = MatMul (last, y_w)
    """
    weights = LOOP | {"count": np.int64(3), "axis0": integers(0), "axis1": integers(1), "four": integers(4)}
    weights |= {"d_w": (4, 4)}
    case = analysed(model_from_text("(float[N,4] x) => (float[N,2] y)", body, weights))
    assert case.analysis.groups == ()
    assert case.reasons()["MatMul:u"] == "Slice's bounds are computed at run time"


def test_a_scan_body_that_reads_outer_weights_loses_what_it_makes() -> None:
    body = """
    xt = Transpose <perm=[1, 0, 2]> (x)
    start = ReduceMax <axes=[1], keepdims=0> (x)
    last, all = Scan <num_scan_inputs=1, body = step (float[N,4] s, float[N,4] v) => (float[N,4] next, float[N,4] out) {
        j = Concat <axis=1> (s, v) u = MatMul (j, u_w) r = Relu (u) d = MatMul (r, d_w) next = Tanh (d)
        out = Neg (next) }> (start, xt)
    sum = ReduceSum (all, axis0) both = Add (last, sum) y = Neg (both)
    """
    weights: Weights = {"u_w": (8, 9), "d_w": (9, 4), "axis0": integers(0)}
    case = analysed(model_from_text("(float[N,5,4] x) => (float[A,N,4] y)", body, weights))
    assert case.widths() == {"MatMul:u": 9}
    assert case.reasons()["MatMul:d"].startswith("Scan hands it")
    check_every_removal(case)


@pytest.mark.parametrize(("changed", "sign"), [("Neg:t", 1), ("Abs:t", -1), ("Neg:t", -1)])
def test_the_proof_sees_a_fault_in_a_branch_that_the_inputs_do_not_take(changed: str, sign: int) -> None:
    weights: Weights = {"a_w": (6, 8, 1, 1), "b_w": (6, 8, 1, 1)}
    case = branching("t = Abs (h) o = Conv (t, a_w)", "t = Neg (h) o = Conv (t, b_w)", weights)
    keep = case.analysis.keep_without({"Conv:c0": [0]})
    slim = remove(case.analysis, keep)
    node = next(node for node in every_node(slim) if node.name == changed)
    node.op_type = "Sigmoid"
    with pytest.raises(ProofFailed, match=r"differs by"):
        prove(case.analysis, slim, keep, {"x": sign * np.abs(case.inputs["x"])})


CONVS = """
    c0 = Conv <pads=[1,1,1,1]> (x, c0_w) h = Relu (c0) c1 = Conv <pads=[1,1,1,1]> (h, c1_w) g = Relu (c1)
    mean = ReduceMean <keepdims=0> (x) high = Greater (mean, zero)
    z = If (high) <then_branch = a () => (float[N,C,6,6] o) { p = Conv (g, a_w) o = Relu (p) },
                   else_branch = b () => (float[N,C,6,6] o) { p = Neg (g) o = Conv (p, b_w) }>
    c2 = Conv (z, c2_w) f = Flatten (c2) d = Gemm (f, d_w, d_b) y = Relu (d)
"""


@pytest.mark.parametrize("options", [{}, {"method": "magnitude", "rebuild": "none"}, {"method": "thinet"}])
def test_a_whole_run_prunes_both_branches_and_what_is_around_them(options: dict[str, str]) -> None:
    weights: Weights = {"c0_w": (8, 3, 3, 3), "c1_w": (12, 8, 3, 3), "a_w": (6, 12, 1, 1), "b_w": (6, 12, 1, 1)}
    weights |= {"c2_w": (4, 6, 1, 1), "d_w": (144, 5), "d_b": (5,), "zero": np.float32(0)}
    model = model_from_text("(float[N,3,6,6] x) => (float[N,5] y)", CONVS, weights)
    inputs = np.random.default_rng(3).standard_normal((48, 3, 6, 6)).astype(np.float32)
    result = compress(model, calib=inputs, ratio=0.5, align=1, samples=40, measure=False, **options)
    kept = {group.name: group.kept for group in result.report.groups}
    assert kept == {"Conv:c0": 4, "Conv:c1": 6, "Conv:p": 3, "Conv:c2": 2}
    assert result.report.proof < CLOSE
    shapes = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert shapes["a_w"] == shapes["b_w"] == (3, 6, 1, 1)
    for x in (inputs[:2] + 1, inputs[:2] - 1):
        assert np.isfinite(run(result.model, {"x": x})["y"]).all()


def test_a_whole_run_prunes_inside_a_loop_to_a_budget() -> None:
    model = model_from_text("(float[N,4] x) => (float[N,2] y)", STEP, LOOP | {"count": np.int64(3)})
    inputs = np.random.default_rng(3).standard_normal((48, 4)).astype(np.float32)
    result = compress(model, calib=inputs, macs=0.7, align=1, samples=40, measure=False)
    assert result.report.proof < CLOSE
    assert result.report.after.macs <= 0.7 * result.report.before.macs
