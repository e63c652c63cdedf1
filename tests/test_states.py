"""Recurrent states that are inputs and outputs of a model: the layer loses units, the state keeps its size."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, integers, model_from_text

from onnxprune import compress
from onnxprune.pipeline import Result

SIGNATURE = "(float[S,N,5] x, float[1,N,8] h, float[1,N,8] c) => (float[S,N,3] y, float[1,N,8] hn, float[1,N,8] cn)"
BODY = """
    i = MatMul (x, e_w) t = Tanh (i) s, hn, cn = LSTM <hidden_size=8> (t, w, r, b, "", h, c)
    z = Squeeze (s, one) o = MatMul (z, o_w) y = Add (o, o_b)
"""
WEIGHTS: Weights = {"e_w": (5, 6), "w": (1, 32, 6), "r": (1, 32, 8), "b": (1, 64), "o_w": (8, 3), "o_b": (3,)}


def model(body: str = BODY) -> onnx.ModelProto:
    return model_from_text(SIGNATURE, body, WEIGHTS | {"one": integers(1)})


def feeds(steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"x": (steps, 2, 5), "h": (1, 2, 8), "c": (1, 2, 8)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def halved(**options: object) -> Result:
    settings = {"method": "magnitude", "rebuild": "none", "ratio": 0.5, "align": 1, "measure": False, "samples": 8}
    return compress(model(), **(settings | options))


def kept_units(result: Result) -> np.ndarray:
    (cut,) = {c.kept for group in result.plan.groups for c in group.cuts if c.tensor == "r" and c.axis == 2}
    return np.array(cut)


def test_the_layer_loses_units_and_the_states_keep_their_size() -> None:
    result = halved()
    assert {len(group.kept) for group in result.plan.groups if group.width == 8} == {4}
    (lstm,) = (node for node in result.model.graph.node if node.op_type == "LSTM")
    assert next(a.i for a in lstm.attribute if a.name == "hidden_size") == 4
    found = run(result.model, feeds(4))
    assert {name: array.shape for name, array in found.items()} == {"y": (4, 2, 3), "hn": (1, 2, 8), "cn": (1, 2, 8)}
    gone = np.setdiff1d(np.arange(8), kept_units(result))
    assert not found["hn"][..., gone].any()
    assert found["hn"][..., kept_units(result)].all()
    assert [n.op_type for n in result.model.graph.node].count("MatMul") == 2  # those of the model


def test_before_opset_11_units_are_chosen_by_index_too() -> None:
    old = model_from_text(SIGNATURE, BODY.replace("Squeeze (s, one)", "Squeeze <axes=[1]> (s)"), WEIGHTS, opset=10)
    result = compress(old, method="magnitude", rebuild="none", ratio=0.5, align=1, measure=False, samples=8)
    assert [n.op_type for n in result.model.graph.node].count("MatMul") == 2
    found = run(result.model, feeds(4))
    assert found["hn"].shape == (1, 2, 8)
    assert np.count_nonzero(found["hn"][0, 0]) == 4


def test_step_by_step_it_computes_what_a_layer_of_the_kept_units_does() -> None:
    """The oracle: the same network written small by hand, run on the whole sequence at once."""
    result = halved()
    units = kept_units(result)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model().graph.initializer}
    gates = np.concatenate([gate * 8 + units for gate in range(4)])
    inner = next(np.array(g.kept) for g in result.plan.groups if g.width == 6)
    small: Weights = {
        "e_w": values["e_w"][:, inner], "w": values["w"][:, gates][..., inner], "r": values["r"][:, gates][..., units],
        "b": values["b"][:, np.concatenate([gates, 32 + gates])], "o_w": values["o_w"][units], "o_b": values["o_b"],
    }  # fmt: skip
    by_hand = model_from_text(
        SIGNATURE.replace("8]", "4]"), BODY.replace("hidden_size=8", "hidden_size=4"), small | {"one": integers(1)}
    )
    given = feeds(5)
    whole = run(by_hand, given | {name: given[name][..., units] for name in ("h", "c")})
    state, outputs = {name: given[name] for name in ("h", "c")}, []
    for step in range(5):
        found = run(result.model, {"x": given["x"][step : step + 1], **state})
        state = {"h": found["hn"], "c": found["cn"]}
        outputs.append(found["y"])
    np.testing.assert_allclose(np.concatenate(outputs), whole["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["h"][..., units], whole["hn"], rtol=1e-4, atol=1e-5)


def test_a_layer_that_keeps_every_unit_is_written_as_it_was() -> None:
    result = halved(ratio=None, ratios={"MatMul:i": 0.5})
    assert [n.op_type for n in result.model.graph.node] == ["MatMul", "Tanh", "LSTM", "Squeeze", "MatMul", "Add"]
    assert [value.name for value in result.model.graph.output] == ["y", "hn", "cn"]


@pytest.mark.parametrize("method", ["obs", "thinet"])
def test_a_run_with_data_solves_the_layers_around(method: str) -> None:
    result = compress(model(), method=method, macs=0.6, samples=64, align=1, measure=False)
    assert result.report.proof < 1e-5
    assert result.report.after.macs < 0.61 * result.report.before.macs
