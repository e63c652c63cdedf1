"""The whole run on small networks: budgets are met, what is kept is kept, and each method and rebuild is worth it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import WEIGHTS, tiny_inputs, tiny_model
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import constants, macs, params
from pipeline_case import QUICK, error, pictures, prune, resnet, tiny, widths

from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.op_rules import RULES
from onnxprune.op_rules.facts import Tie
from onnxprune.pipeline import compress

# Budgets


@pytest.mark.parametrize(
    ("method", "budget", "count", "most"),
    [
        ("magnitude", {"macs": 0.6}, macs, 0.6),
        ("obs", {"speedup": 2.5}, macs, 0.4),
        ("obs", {"params": 0.5}, params, 0.5),
        ("obs", {}, macs, 0.5),
    ],
    ids=["macs", "speedup", "params", "default"],
)
def test_the_written_model_meets_the_budget(
    method: str, budget: dict[str, float], count: Callable[[onnx.ModelProto], int], most: float
) -> None:
    result = tiny(method=method, **budget)
    share = count(result.model) / count(tiny_model())
    assert most - 0.15 < share <= most
    assert (result.report.before.macs, result.report.after.macs) == (macs(tiny_model()), macs(result.model))
    assert (result.report.before.params, result.report.after.params) == (params(tiny_model()), params(result.model))
    assert result.report.budget.reached == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_residual_streams_are_cut_within_the_budget(allocate: str) -> None:
    result = prune(resnet(), pictures(40), macs=0.5, allocate=allocate)
    assert 0.4 < macs(result.model) / macs(resnet()) <= 0.5
    assert result.report.after.macs == macs(result.model)
    assert result.report.allocation.startswith(allocate)


def test_a_ratio_takes_that_share_of_every_group() -> None:
    result = tiny(ratio=0.25, method="magnitude", rebuild="none")
    assert widths(result.model) == {"c0_w": 6, "c1_w": 6}
    assert result.report.budget.kind == "ratio"
    assert result.report.budget.reached == 0.25


def test_ratios_name_groups_and_a_budget_sets_the_others() -> None:
    alone = tiny(ratios={"*h0": 0.5})
    assert widths(alone.model) == {"c0_w": 4, "c1_w": 8}
    assert alone.report.budget.kind == "ratios"
    both = tiny(ratios={"Conv:h0": 0.5}, macs=0.3)
    assert widths(both.model)["c0_w"] == 4
    assert macs(both.model) / macs(tiny_model()) <= 0.3


def test_widths_are_multiples_of_what_was_asked_for() -> None:
    result = prune(resnet(), pictures(24), align=4, ratio=0.4)
    kept = {g.name: (g.kept, g.width) for g in result.report.groups}
    assert all(k % 4 == 0 or k == w for k, w in kept.values())
    assert any(k < w for k, w in kept.values())
    assert result.report.align == 4


def test_a_budget_out_of_reach_says_so() -> None:
    with pytest.raises(BudgetNotMet, match=r"the budget of 0\.001 .* cannot be reached: .* 0\.\d+ remain"):
        tiny(macs=0.001)
    with pytest.raises(BudgetNotMet, match="cannot be reached"):
        tiny(macs=0.1, keep=("h1",), method="magnitude")


def test_a_drop_beyond_the_bound_is_refused_and_one_within_is_told(tmp_path: Path) -> None:
    x = tiny_inputs()
    np.savez(tmp_path / "test.npz", x=x, y=run(tiny_model(), {"x": x})["y"].argmax(1))
    ask: dict[str, Any] = {"calib": x, "eval": tmp_path / "test.npz", "macs": 0.1, "rebuild": "none", **QUICK}
    told = compress(tiny_model(), **ask).report.accuracy
    assert told is not None
    assert told.before == 1.0 > told.after
    assert compress(tiny_model(), **ask, max_drop=1 - told.after + 1e-9).report.accuracy == told
    with pytest.raises(BudgetNotMet, match=r"top-1 accuracy drops from 1\.0000 to"):
        compress(tiny_model(), **ask, max_drop=(1 - told.after) / 2)


# What is kept, and what is not


@pytest.mark.parametrize("pattern", ["c_w", "c", "Conv:c"])
def test_a_kept_layer_is_bit_identical_but_for_its_inputs(pattern: str) -> None:
    result = prune(resnet(), pictures(40), ratio=0.5, keep=(pattern,))
    before, after = constants(resnet()), constants(result.model)
    stream = next(g for g in result.plan.groups if any(c.tensor == "c_w" and c.axis == 1 for c in g.cuts))
    kept = next(c.kept for c in stream.cuts if (c.tensor, c.axis) == ("c_w", 1))
    np.testing.assert_array_equal(after["c_w"], before["c_w"][:, list(kept)])
    for kind in ("gamma", "beta", "mean", "var"):
        np.testing.assert_array_equal(after[f"n3_{kind}"], before[f"n3_{kind}"])
    assert not any(layer.name == "Conv:c" for layer in result.report.layers)
    assert {"Conv:d", "Gemm:y"} <= {layer.name for layer in result.report.layers}
    reason = next(c.reason for c in result.report.closed if c.name == "Conv:c")
    assert reason == "--keep names it"


def test_only_what_is_named_is_pruned_and_its_neighbours_solved() -> None:
    result = prune(resnet(), pictures(40), ratio=0.5, only=("Conv:a",))
    assert widths(result.model) == {**widths(resnet()), "a_w": 5}
    first, last = constants(resnet()), constants(result.model)
    for untouched in ("stem_w", "c_w", "d_w", "d_b", "p_w", "fc_w", "fc_b", "n3_gamma", "n4_var"):
        np.testing.assert_array_equal(last[untouched], first[untouched])
    assert [layer.name for layer in result.report.layers] == ["Conv:b"]
    assert {c.reason for c in result.report.closed} >= {"--only does not name it"}


def test_a_model_in_which_nothing_can_go_is_refused_with_the_reasons() -> None:
    model = model_from_text("(float[N,3] x) => (float[N,2] y)", "y = Gemm (x, w)", {"w": (3, 2)})
    with pytest.raises(BadInput, match=r"no channel of this model can go: Gemm:y \(2\): it is an output"):
        prune(model, np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))
    with pytest.raises(BadInput, match="it has no layer with a constant weight"):
        prune(model_from_text("(float[N,3] x) => (float[N,3] y)", "y = Relu (x)", {}), None)
    with pytest.raises(BadInput, match=r"(?s)h0 \(8\): --keep names it.*h1 \(8\): --keep names it"):
        tiny(keep=("h*",))


def test_behind_an_operator_that_holds_its_channels_pruning_goes_on() -> None:
    body = """
    h0 = Conv <pads=[1,1,1,1]> (x, c0_w) r0 = Relu (h0)
    s = CumSum (r0, one)
    h1 = Conv <pads=[1,1,1,1]> (s, c1_w) r1 = Relu (h1) g = GlobalAveragePool (r1) f = Flatten (g)
    y = Gemm <transB = 1> (f, fc_w, fc_b)
    """
    weights: Weights = {name: WEIGHTS[name] for name in ("c0_w", "c1_w", "fc_w", "fc_b")}
    model = model_from_text("(float[N,3,8,8] x) => (float[N,4] y)", body, {**weights, "one": np.int64(1)})
    result = prune(model, tiny_inputs(), ratio=0.5)
    assert widths(result.model) == {"c0_w": 8, "c1_w": 4}
    assert {c.name: c.reason for c in result.report.closed}["Conv:h0"] == "CumSum adds up along its axis"


def test_a_group_that_cannot_be_proved_stays_whole_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule for Add that forgets to tie its operands would cut the stream apart."""
    rule = RULES["", "Add"]
    monkeypatch.setitem(RULES, ("", "Add"), lambda op: [fact for fact in rule(op) if not isinstance(fact, Tie)])
    result = prune(resnet(), pictures(24), ratio=0.5, method="magnitude", rebuild="none")
    refused = {g.name: g.reason for g in result.report.groups if "cannot be proved" in g.reason}
    assert refused
    assert all(g.kept == g.width for g in result.report.groups if g.name in refused)
    assert any(g.kept < g.width for g in result.report.groups)
    assert result.report.proof < 1e-5
    onnx.checker.check_model(result.model, full_check=True)


# Methods and rebuilds


@pytest.mark.parametrize(
    ("method", "rebuild"),
    [(method, "lsq") for method in ("random", "magnitude", "nisp", "thinet", "lasso", "obs")]
    + [(method, rebuild) for method in ("magnitude", "obs") for rebuild in ("scale", "none")],
)
def test_every_method_and_every_rebuild_runs_on_residual_blocks(method: str, rebuild: str) -> None:
    result = prune(resnet(), pictures(40), method=method, rebuild=rebuild, macs=0.6, allocate="uniform")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.proof < 1e-5
    assert macs(result.model) / macs(resnet()) <= 0.6
    assert bool(result.report.layers) == (rebuild != "none")
    assert {g.method for g in result.report.groups if g.kept < g.width} == {method}
    assert np.isfinite(error(result.model, resnet(), pictures(16, seed=8)))


def test_solving_again_beats_factors_and_factors_beat_nothing() -> None:
    fresh = pictures(32, seed=8)
    found = {
        rebuild: error(prune(resnet(), pictures(72), samples=64, ratio=0.3, rebuild=rebuild).model, resnet(), fresh)
        for rebuild in ("lsq", "scale", "none")
    }
    assert found["lsq"] < 0.7 * found["none"]
    assert found["lsq"] < found["scale"] < found["none"]


def test_the_default_loses_less_than_plain_magnitude() -> None:
    fresh = pictures(32, seed=8)
    ask: dict[str, Any] = {"samples": 64, "macs": 0.5}
    ours = error(prune(resnet(), pictures(72), **ask).model, resnet(), fresh)
    plain = error(prune(resnet(), pictures(72), **ask, method="magnitude", rebuild="none").model, resnet(), fresh)
    assert ours < 0.5 * plain


def test_a_rebuild_makes_no_layer_worse_on_held_out_rows() -> None:
    layers = prune(resnet(), pictures(72), samples=64, ratio=0.4).report.layers
    assert {layer.name for layer in layers} == {"Conv:a", "Conv:b", "Conv:c", "Conv:d", "Conv:p", "Gemm:y"}
    assert all(0 <= layer.after <= layer.before + 1e-9 for layer in layers)


def test_what_nothing_measures_is_chosen_by_magnitude() -> None:
    """Of the layers in a branch no statistics are collected."""
    body = """
    m = ReduceMax <keepdims = 0> (x) high = Greater (m, zero)
    z = If (high) <then_branch = a () => (float[N,4,6,6] o) { p = Conv (x, a_w, a_b) r = Relu (p) o = Conv (r, b_w) },
                   else_branch = b () => (float[N,4,6,6] i) { i = Conv (x, c_w) }>
    g = GlobalAveragePool (z) y = Flatten (g)
    """
    weights: Weights = {"a_w": (8, 2, 3, 3), "a_b": (8,), "b_w": (4, 8, 1, 1), "c_w": (4, 2, 3, 3)}
    model = model_from_text("(float[N,2,8,8] x) => (float[N,4] y)", body, {**weights, "zero": np.float32(0)})
    result = prune(model, pictures(24, (2, 8, 8)), ratio=0.5)
    a_w = constants(model)["a_w"]
    kept = np.sort(np.argsort(np.abs(a_w).sum((1, 2, 3)))[4:])
    assert [group.kept for group in result.plan.groups if group.width == 8] == [tuple(kept)]


def test_without_rebuild_what_stays_is_what_was() -> None:
    result = tiny(method="magnitude", rebuild="none", ratio=0.5)
    before = constants(tiny_model())
    for cut in (cut for group in result.plan.groups for cut in group.cuts):
        before[cut.tensor] = before[cut.tensor].take(cut.kept, cut.axis)
    after = constants(result.model)
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])
