"""Local functions: a channel that goes passes through, and what nothing passes through stays a function."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import Weights, draw
from removal import CLOSE, Case, check_every_removal
from topologies import feeds

from onnxprune.functions import analysed
from onnxprune.graph import every_node
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.pipeline import compress
from onnxprune.serialise import to_proto
from onnxprune.trace import trace

WEIGHTS: Weights = {"a_w": (4, 8), "b_w": (8, 6), "c_w": (6, 3)}
MAIN = "u = MatMul (x, a_w) h = local.act <slope=0.5> (u) v = local.mix (h, b_w) y = MatMul (v, c_w)"
FUNCTIONS = """
<domain: "local", opset_import: ["" : 17]> act <slope> (t) => (r) {
    two = Constant <value = float[1] {2}> () s = LeakyRelu <alpha: float = @slope> (t) r = Mul (s, two) }
<domain: "local", opset_import: ["" : 17, "local" : 1]> mix (t, w) => (r) {
    a = local.act <slope=0.1> (t) m = MatMul (a, w) r = Tanh (m) }
<domain: "local", opset_import: ["" : 17]> centre (t) => (r) { m = ReduceMean <axes=[1]> (t) r = Sub (t, m) }
<domain: "local", opset_import: ["" : 16]> older (t) => (r) { r = Neg (t) }
<domain: "local", opset_import: ["" : 17]> either (t, w, x) => (r) {
    s = ReduceSum <keepdims=0> (x) z = Sub (s, s) c = Greater (s, z)
    r = If (c) <then_branch = a () => (q) { q = MatMul (t, w) },
                else_branch = b () => (q) { p = Neg (t) q = MatMul (p, w) }> }
"""


def model_of(body: str = MAIN) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> net (float[N,4] x) => (float[N,3] y) {{ {body} }}'
    model = onnx.parser.parse_model(text + FUNCTIONS)
    rng = np.random.default_rng(5)
    for name, shape in WEIGHTS.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(draw(name, shape, rng), name))
    return model


def opened(model: onnx.ModelProto, *closed: str) -> Case:
    inputs = feeds(model, seed=1)
    case = Case(analysed(normalise(load(model).model), lambda each: trace(each, inputs), closed), inputs)
    np.testing.assert_allclose(run(to_proto(case.analysis.model), inputs)["y"], run(model, inputs)["y"], rtol=1e-6)
    return case


def calls(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in every_node(model) if node.domain == "local")


def test_a_call_that_channels_pass_through_is_inlined_and_so_is_one_inside_it() -> None:
    case = opened(model_of())
    assert case.widths() == {"MatMul:u": 8, "mix:v/MatMul:m": 6}
    assert calls(case.analysis.model) == []
    assert not case.analysis.model.functions
    check_every_removal(case)


def test_a_call_that_no_channel_passes_through_stays_a_call() -> None:
    body = "u = MatMul (x, a_w) h = Relu (u) v = MatMul (h, b_w) w = local.centre (v) z = local.act <slope=0.5> (w)"
    case = opened(model_of(f"{body} y = MatMul (z, c_w)"))
    assert case.widths() == {"MatMul:u": 8}
    assert calls(case.analysis.model) == ["act", "centre"]
    assert case.reasons()["MatMul:v"] == "centre (centre:w) is a local function"
    check_every_removal(case)


def test_of_two_calls_of_one_function_only_the_one_in_the_way_is_inlined() -> None:
    body = "u = MatMul (x, a_w) h = local.act <slope=0.5> (u) v = MatMul (h, b_w) w = MatMul (v, c_w)"
    case = opened(model_of(f"{body} y = local.act <slope=0.2> (w)"))
    assert case.widths() == {"MatMul:u": 8, "MatMul:v": 6}
    assert calls(case.analysis.model) == ["act"]
    check_every_removal(case)


def test_a_function_of_another_opset_is_a_barrier_that_says_so() -> None:
    case = opened(model_of("u = MatMul (x, a_w) h = local.older (u) v = MatMul (h, b_w) y = MatMul (v, c_w)"))
    assert case.widths() == {"MatMul:v": 6}
    assert case.reasons()["MatMul:u"] == "older (older:h) is a local function of opset 16, the model is of 17"


def test_a_call_that_is_to_be_kept_stays() -> None:
    case = opened(model_of(), "act:h")
    assert case.widths() == {"mix:v/MatMul:m": 6}
    assert calls(case.analysis.model) == ["act", "act"]


def test_where_the_inliner_fails_functions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("onnxprune.functions.inline", fail)
    case = opened(model_of())
    assert case.widths() == {}
    assert calls(case.analysis.model) == ["act", "mix"]


def test_channels_pass_through_a_function_with_branches_and_a_call_in_a_branch() -> None:
    case = opened(model_of("u = MatMul (x, a_w) v = local.either (u, b_w, x) y = MatMul (v, c_w)"))
    assert sorted(case.widths().values()) == [6, 8]
    check_every_removal(case)
    inside = """u = MatMul (x, a_w) s = ReduceSum <keepdims=0> (x) z = Sub (s, s) c = Greater (s, z)
    v = If (c) <then_branch = a () => (float[N,D] o) { h = local.act <slope=0.3> (u) o = local.mix (h, b_w) },
                else_branch = b () => (float[N,D] o) { o = MatMul (u, b_w) }> y = MatMul (v, c_w)"""
    case = opened(model_of(inside))
    assert sorted(case.widths().values()) == [6, 8]
    check_every_removal(case)


@pytest.mark.parametrize("options", [{}, {"method": "magnitude", "rebuild": "none"}])
def test_a_whole_run_prunes_through_functions(options: dict[str, str]) -> None:
    inputs = np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32)
    result = compress(model_of(), calib=inputs, ratio=0.5, align=1, samples=32, measure=False, **options)
    assert {group.name: group.kept for group in result.report.groups} == {"MatMul:u": 4, "mix:v/MatMul:m": 3}
    assert result.report.proof < CLOSE
    assert not result.model.functions
