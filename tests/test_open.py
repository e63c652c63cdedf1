"""`--open normalised`: channels go from axes that statistics run over, and what stays is normalised over what stays."""

import numpy as np
import onnx
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, model_from_text
from removal import CLOSE, analysed, proto, removals

from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.pipeline import compress

WEIGHTS: Weights = {"e_w": (5, 12), "g": (12,), "b": (12,), "f_w": (12, 20), "u_w": (20, 12), "y_w": (12, 3)}
NORMS = {
    "fused": "n = LayerNormalization <axis=-1, epsilon=0.1> (h, g, b)",
    "root mean square": "n = SimplifiedLayerNormalization <axis=-1, epsilon=0.1> (h, g)",
    "root mean square of ONNX": "n = RMSNormalization <axis=-1, epsilon=0.1> (h, g)",
    "decomposed": """m = ReduceMean <axes=[-1]> (h) d = Sub (h, m) q = Mul (d, d) v = ReduceMean <axes=[-1]> (q)
        w = Add (v, eps) s = Sqrt (w) c = Div (d, s) e = Mul (c, g) n = Add (e, b)""",
}


def stream(norm: str) -> onnx.ModelProto:
    body = f"h = MatMul (x, e_w) {NORMS[norm]} f = MatMul (n, f_w) r = Relu (f) u = MatMul (r, u_w) z = Add (h, u)"
    more: Weights = {"eps": np.float32(0.1)}
    opset = 23 if "RMSNormalization" in NORMS[norm] else 17
    return model_from_text("(float[N,7,5] x) => (float[N,7,3] y)", f"{body} y = MatMul (z, y_w)", WEIGHTS | more, opset)


@pytest.mark.parametrize("norm", NORMS)
def test_a_normalised_stream_is_closed_with_the_way_to_open_it(norm: str) -> None:
    case = analysed(stream(norm))
    assert case.widths() == {"MatMul:f": 20}
    assert "--open normalised" in case.reasons()["MatMul:h"]


@pytest.mark.parametrize("norm", NORMS)
def test_an_opened_stream_loses_channels_and_the_wide_graph_normalises_over_the_rest(norm: str) -> None:
    case = analysed(stream(norm), opened=["normalised"])
    assert case.widths() == {"MatMul:h": 12, "MatMul:f": 20}
    for removed in removals(case.analysis.groups, seed=3):
        keep = case.analysis.keep_without(removed)
        slim = remove(case.analysis, keep)
        wide = run(proto(scatter(case.analysis, slim, keep)), case.inputs)
        assert max_relative_difference(run(proto(slim), case.inputs), wide) < CLOSE


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_written_normalises_over_the_channels_that_stay(norm: str) -> None:
    case = analysed(stream(norm), opened=["normalised"])
    stays = np.array([0, 2, 3, 7, 11])
    keep = case.analysis.keep_without({"MatMul:h": sorted(set(range(12)) - set(stays.tolist()))})
    found = run(proto(remove(case.analysis, keep)), case.inputs)["y"]
    value = {v.name: v.const_value.numpy() for v in case.analysis.model.graph.initializers.values() if v.const_value}
    h = case.inputs["x"] @ value["e_w"][:, stays]
    centred = h if norm.startswith("root mean square") else h - h.mean(-1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1) * value["g"][stays]
    n += 0 if norm.startswith("root mean square") else value["b"][stays]
    z = h + np.maximum(n @ value["f_w"][stays], 0) @ value["u_w"][:, stays]
    np.testing.assert_allclose(found, z @ value["y_w"][stays], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_a_run_opens_what_it_is_told_to(method: str) -> None:
    result = compress(stream("fused"), method=method, ratio=0.5, open="normalised", samples=64, align=1, measure=False)
    assert {group.name: group.kept for group in result.report.groups} == {"MatMul:h": 6, "MatMul:f": 10}
    assert result.report.proof < CLOSE
