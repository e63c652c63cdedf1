"""A sum and its norm in one operator: closed as a rule, open with `--open normalised`, and exact then."""

import numpy as np
import onnx
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, model_from_text
from op_case import facts_of, fixed, outs, params, ties
from removal import CLOSE, analysed, check_every_removal, proto, removals

from onnxprune.op_rules.facts import Fixed
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.pipeline import compress

MS = "com.microsoft."
CHANNELS: Weights = {"g": (12,), "b": (12,), "c": (12,), "s": (7, 12)}
WEIGHTS: Weights = {"e_w": (5, 12), "k_w": (5, 12), "f_w": (12, 20), "u_w": (20, 12), "y_w": (12, 3), **CHANNELS}
SKIPS = {
    "with a shift": "n, , , z = {op}SkipLayerNormalization <epsilon=0.1> (h, k, g, b)",
    "with a bias": "n, , , z = {op}SkipLayerNormalization <epsilon=0.1> (h, k, g, b, c)",
    "with a bias and no shift": "n, , , z = {op}SkipLayerNormalization <epsilon=0.1> (h, k, g, , c)",
    "root mean square": "n, , , z = {op}SkipSimplifiedLayerNormalization <epsilon=0.1> (h, k, g)",
    "root mean square with a bias": "n, , , z = {op}SkipSimplifiedLayerNormalization <epsilon=0.1> (h, k, g, c)",
    "whose sum nobody reads": "n = {op}SkipLayerNormalization <epsilon=0.1> (h, k, g, b, c) z = Add (h, k)",
    "with a constant skip": "n, , , m = {op}SkipLayerNormalization <epsilon=0.1> (h, s, g, b) z = Add (m, k)",
}


def model(skip: str) -> onnx.ModelProto:
    """A stream h and a second one k, their sum normalised, and a residual branch behind it."""
    body = f"""h = MatMul (x, e_w) k = MatMul (x, k_w) {skip.format(op=MS)}
        f = MatMul (n, f_w) r = Relu (f) u = MatMul (r, u_w) t = Add (z, u) y = MatMul (t, y_w)"""
    read = {word.strip(",()") for word in body.split()}
    weights = {name: weight for name, weight in WEIGHTS.items() if name in read}
    return model_from_text("(float[2,7,5] x) => (float[2,7,3] y)", body, weights)


@pytest.mark.parametrize("skip", SKIPS)
def test_a_fused_norm_closes_its_stream_with_the_way_to_open_it(skip: str) -> None:
    case = analysed(model(SKIPS[skip]))
    assert case.widths() == {"MatMul:f": 20}
    assert "--open normalised" in case.reasons()["MatMul:h"]
    check_every_removal(case)


@pytest.mark.parametrize("skip", SKIPS)
def test_an_opened_fused_norm_is_one_over_the_channels_that_stay(skip: str) -> None:
    case = analysed(model(SKIPS[skip]), opened=["normalised"])
    assert case.widths() == {"MatMul:h": 12, "MatMul:f": 20}
    for removed in removals(case.analysis.groups, seed=3):
        keep = case.analysis.keep_without(removed)
        slim = remove(case.analysis, keep)
        wide = run(proto(scatter(case.analysis, slim, keep)), case.inputs)
        assert max_relative_difference(run(proto(slim), case.inputs), wide) < CLOSE


@pytest.mark.parametrize("skip", ["with a bias", "root mean square with a bias"])
def test_what_is_written_normalises_the_sum_over_the_channels_that_stay(skip: str) -> None:
    case = analysed(model(SKIPS[skip]), opened=["normalised"])
    stays = np.array([0, 2, 3, 7, 11])
    keep = case.analysis.keep_without({"MatMul:h": sorted(set(range(12)) - set(stays.tolist()))})
    found = run(proto(remove(case.analysis, keep)), case.inputs)["y"]
    value = {v.name: v.const_value.numpy() for v in case.analysis.model.graph.initializers.values() if v.const_value}
    z = case.inputs["x"] @ (value["e_w"] + value["k_w"])[:, stays] + value["c"][stays]
    centred = z if "root" in skip else z - z.mean(-1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1) * value["g"][stays]
    n += 0 if "root" in skip else value["b"][stays]
    t = z + np.maximum(n @ value["f_w"][stays], 0) @ value["u_w"][:, stays]
    np.testing.assert_allclose(found, t @ value["y_w"][stays], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skip", ["with a bias", "root mean square"])
def test_a_run_opens_a_fused_norm(skip: str) -> None:
    result = compress(
        model(SKIPS[skip]), method="obs", ratio=0.5, open="normalised", samples=64, align=1, measure=False
    )
    assert {group.name: group.kept for group in result.report.groups} == {"MatMul:h": 6, "MatMul:f": 10}
    assert result.report.proof < CLOSE


def test_statistics_that_are_handed_on_keep_the_channels() -> None:
    node = f"y, mean, deviation = {MS}SkipLayerNormalization (x, s, g)"
    labels = {"x": {(2,): range(4)}, "s": {(1,): range(4, 8)}}
    found = facts_of(node, {"x": (2, 3, 4), "s": (3, 4)}, labels, {"g": (4,)})
    assert fixed(found) == [0, 1, 2, 3]
    assert ties(found) == [([0, 1, 2, 3], [4, 5, 6, 7])]
    assert params(found, 2) == {(0,): ([0, 1, 2, 3], False)}
    assert outs(found) == {(2,): [0, 1, 2, 3]}


def test_computed_parameters_of_a_fused_norm_go_along_or_hold_the_channels() -> None:
    node = f"y = {MS}SkipLayerNormalization (x, s, g)"
    shapes = {"x": (2, 3, 4), "s": (2, 3, 4), "g": (4,)}
    both = {"x": {(2,): range(4)}, "s": {(2,): range(4)}}
    assert ([0, 1, 2, 3], [8, 9, 10, 11]) in ties(facts_of(node, shapes, {**both, "g": {(0,): range(8, 12)}}))
    reasons = {fact.reason for fact in facts_of(node, shapes, both) if isinstance(fact, Fixed)}
    assert "SkipLayerNormalization joins it with 'g', which has no prunable channels" in reasons


def test_an_embedding_with_its_norm_keeps_its_channels_and_says_why() -> None:
    body = f"""a = ReduceMax <keepdims=0, axes=[2]> (x) i = Cast <to=6> (a) p = Abs (i) q = Mod (p, nine)
        n, m = {MS}EmbedLayerNormalization <epsilon=0.1> (q, , w, s, , g, b)
        f = MatMul (n, f_w) r = Relu (f) y = MatMul (r, u_w)"""
    weights: Weights = {"nine": np.int32(9), "w": (9, 12), **CHANNELS, "f_w": (12, 20), "u_w": (20, 12)}
    del weights["c"]
    case = analysed(model_from_text("(float[2,7,5] x) => (float[2,7,12] y)", body, weights))
    assert case.widths() == {"MatMul:f": 20}
    found = facts_of(
        f"y, m = {MS}EmbedLayerNormalization (q, , w, s, , g, b)", {}, {}, {**weights, "q": np.zeros((2, 7), np.int32)}
    )
    assert fixed(found) == list(range(100, 112))
    check_every_removal(case)
