"""Layers in the branches of If: solved where all calibration inputs take the same branch, as if it stood outside."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import constants
from pipeline_case import pictures, prune
from sweep_case import Batches

from onnxprune.branches import take_branches
from onnxprune.calibration.branches import branches_taken
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.pipeline import Result
from onnxprune.report import GroupReport
from onnxprune.serialise import to_proto

SIGNATURE = "(float[N,3,16,16] x) => (float[N,4,16,16] y)"
MAPS = "float[N,C,16,16]"
LAYERS = "c0 = Conv (x, a_w, a_b) h = Relu (c0) c1 = Conv (h, b_w) n = BatchNormalization (c1, g, s, m, v) r = Relu (n)"
RNG = np.random.default_rng(1)
SHAPES = {"a_w": (8, 3), "b_w": (10, 8), "y_w": (4, 10), "d_w": (9, 3), "e_w": (10, 9)}
WEIGHTS: Weights = {
    **{name: RNG.standard_normal((*shape, 1, 1)).astype(np.float32) for name, shape in SHAPES.items()},
    "a_b": RNG.standard_normal(8).astype(np.float32),
    "zero": np.float32(0),
    "g": np.linspace(0.5, 1.5, 10, dtype=np.float32),
    "s": np.linspace(-0.2, 0.3, 10, dtype=np.float32),
    "m": np.zeros(10, np.float32),
    "v": np.ones(10, np.float32),
}


def branching(inner: str = "o = Identity (r)") -> onnx.ModelProto:
    """x → If (sum > 0) { LAYERS and `inner` } { two other layers } → y."""
    other = "d = Conv (x, d_w) t = Tanh (d) o = Conv (t, e_w)"
    body = f"""sum = ReduceSum <keepdims=0> (x) high = Greater (sum, zero)
    z = If (high) <then_branch = a () => ({MAPS} o) {{ {LAYERS} {inner} }},
                   else_branch = b () => ({MAPS} o) {{ {other} }}>
    y = Conv (z, y_w)"""
    return model_from_text(SIGNATURE, body, WEIGHTS)


def plain() -> onnx.ModelProto:
    """The same network without the branch that inputs with a positive sum never take."""
    used = {name: given for name, given in WEIGHTS.items() if name not in ("d_w", "e_w", "zero")}
    return model_from_text(SIGNATURE, f"{LAYERS} y = Conv (r, y_w)", used)


def positive(count: int = 64) -> np.ndarray:
    return np.abs(pictures(count))


def group(result: Result, name: str) -> GroupReport:
    return next(g for g in result.report.groups if g.name == name)


NESTED = """low = Less (sum, zero)
    o = If (low) <then_branch = c () => (float[N,C,16,16] i) { i = Conv (r, i_w) },
                  else_branch = d () => (float[N,C,16,16] k) { k = Neg (r) }>"""


def nested() -> onnx.ModelProto:
    model = branching(NESTED)
    weight = np.random.default_rng(5).standard_normal((10, 10, 1, 1)).astype(np.float32)
    node = next(node for node in model.graph.node if node.op_type == "If")
    inner = next(node for node in node.attribute[0].g.node if node.op_type == "If")
    inner.attribute[0].g.initializer.append(onnx.numpy_helper.from_array(weight, "i_w"))
    return model


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_in_place_compute_what_the_model_computes_where_it_takes_them(sign: int) -> None:
    model, x = normalise(load(nested()).model), sign * positive(3)
    taken = branches_taken(model, Batches([{"x": x}]))
    outer, inner = [node.name for node in model.graph.all_nodes() if node.op_type == "If"]
    assert taken == ({outer: "then_branch", inner: "else_branch"} if sign > 0 else {outer: "else_branch"})
    flat = take_branches(model, taken)
    assert "If" not in {node.op_type for node in flat.graph}
    wanted = run(nested(), {"x": x})["y"]
    np.testing.assert_allclose(run(to_proto(flat), {"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)


def test_a_body_s_own_weight_comes_along() -> None:
    model, x = normalise(load(nested()).model), positive(3)
    outer, inner = [node.name or "" for node in model.graph.all_nodes() if node.op_type == "If"]
    flat = to_proto(take_branches(model, {outer: "then_branch", inner: "then_branch"}))
    weight = constants(flat)["i_w"][:, :, 0, 0]
    parts = run(to_proto(take_branches(model, {outer: "then_branch"})), {"x": x}, ["r"])["r"]
    wanted = np.einsum("oc,bchw->bohw", weight, parts)
    wanted = np.einsum("oc,bchw->bohw", constants(flat)["y_w"][:, :, 0, 0], wanted)
    np.testing.assert_allclose(run(flat, {"x": x})["y"], wanted, rtol=1e-4, atol=1e-4)


def test_a_branch_that_only_some_inputs_take_is_not_taken() -> None:
    model = normalise(load(branching()).model)
    x = positive(4)
    assert branches_taken(model, Batches([{"x": x}, {"x": -x}])) == {}


@pytest.mark.parametrize("method", ["obs", "thinet"])
def test_layers_in_a_branch_are_chosen_and_solved_as_if_they_stood_outside(method: str) -> None:
    x = positive()
    inside, outside = (prune(model, x, macs=0.5, method=method) for model in (branching(), plain()))
    for name in ("Conv:c0", "Conv:c1"):
        assert group(inside, name).kept == group(outside, name).kept < group(outside, name).width
    assert {layer.name for layer in inside.report.layers} == {layer.name for layer in outside.report.layers}
    assert inside.report.before.macs == outside.report.before.macs
    assert inside.report.after.macs == outside.report.after.macs
    found, wanted = (run(r.model, {"x": x})["y"] for r in (inside, outside))
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())


def test_what_a_branch_that_is_never_taken_holds_stays_and_says_why() -> None:
    result = prune(branching(), positive(), macs=0.5)
    idle = group(result, "Conv:d")
    assert (idle.kept, idle.width) == (9, 9)
    assert idle.reason.startswith("no calibration input takes the branch")
    x = -positive(4)
    np.testing.assert_array_equal(run(result.model, {"x": x})["y"].shape, (4, 4, 16, 16))


def test_gates_are_not_learned_where_no_input_comes() -> None:
    pytest.importorskip("torch")
    result = prune(branching(), positive(), method="l0", params=0.7)
    assert group(result, "Conv:d").kept == 9
    assert group(result, "Conv:c0").kept < 8 or group(result, "Conv:c1").kept < 10


def test_a_ratio_cuts_branches_that_are_never_taken_too() -> None:
    result = prune(branching(), positive(), ratio=0.5, method="magnitude", rebuild="none")
    assert {g.name: g.kept for g in result.report.groups} == {"Conv:c0": 4, "Conv:d": 5, "Conv:c1": 5}


def test_layers_in_a_branch_that_some_inputs_take_are_cut_but_not_solved() -> None:
    x = positive()
    result = prune(branching(), np.concatenate([x, -x]), ratio=0.5, batch_size=1)
    assert group(result, "Conv:c0").kept == 4
    assert {layer.name for layer in result.report.layers} == {"Conv:y"}
