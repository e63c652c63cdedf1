"""The whole run on small networks: budgets are met, what is kept is kept, what comes out is of the kind given."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from cli_case import BODY, WEIGHTS, tiny_inputs, tiny_model
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import constants, macs, params
from topologies import TOPOLOGIES

from onnxprune.config import Config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.op_rules import RULES
from onnxprune.op_rules.facts import Tie
from onnxprune.pipeline import Result, compress

QUICK: dict[str, Any] = {"align": 1, "samples": 32, "measure": False}
RESNET_LAYERS = {"Conv:s", "Conv:a", "Conv:b", "Conv:c", "Conv:d", "Conv:p", "Gemm:y"}


def pictures(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 3) -> np.ndarray:
    """Correlated inputs, as pictures are: noise summed along both sides, of unit deviation."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape)).cumsum(-1).cumsum(-2)
    noise -= noise.mean((-1, -2), keepdims=True)
    return (noise / noise.std()).astype(np.float32)


def resnet() -> onnx.ModelProto:
    return TOPOLOGIES["resnet-text"]()


def prune(model: Any, data: object, **options: Any) -> Result:
    return compress(model, calib=data, **QUICK | options)


def tiny(**options: Any) -> Result:
    return prune(tiny_model(), tiny_inputs(), **options)


def widths(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of each convolution, by its weight's name."""
    weights = constants(model)
    return {node.input[1]: len(weights[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"}


def error(pruned: onnx.ModelProto, original: onnx.ModelProto, inputs: np.ndarray) -> float:
    """‖y − y₀‖ / ‖y₀ − mean‖ on inputs that no one solved on."""
    found, wanted = run(pruned, {"x": inputs})["y"], run(original, {"x": inputs})["y"]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(0)))


# Budgets


@pytest.mark.parametrize("method", ["magnitude", "obs"])
@pytest.mark.parametrize(
    ("budget", "count", "most"),
    [({"macs": 0.6}, macs, 0.6), ({"speedup": 2.5}, macs, 0.4), ({"params": 0.5}, params, 0.5), ({}, macs, 0.5)],
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


def test_behind_an_operator_without_rule_pruning_goes_on() -> None:
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
    assert {c.name: c.reason for c in result.report.closed}["Conv:h0"] == "CumSum (CumSum:s) has no rule"


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


# In and out


def as_path(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


KINDS: dict[str, tuple[Callable[[onnx.ModelProto, Path], Any], type, Callable[[Any], onnx.ModelProto]]] = {
    "path": (as_path, ir.Model, ir.to_proto),
    "bytes": (lambda m, _: m.SerializeToString(), bytes, onnx.load_from_string),
    "proto": (lambda m, _: m, onnx.ModelProto, lambda m: m),
    "ir": (lambda m, _: ir.from_proto(m), ir.Model, ir.to_proto),
    "graphsurgeon": (lambda m, _: gs.import_onnx(m), gs.Graph, gs.export_onnx),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_of_the_kind_given_and_what_was_given_is_not_changed(kind: str, tmp_path: Path) -> None:
    give, expected, read = KINDS[kind]
    given = give(tiny_model(), tmp_path)
    state = given.read_bytes() if kind == "path" else given if kind == "bytes" else read(given).SerializeToString()
    result = prune(given, tiny_inputs(), macs=0.5)
    assert type(result.model) is expected
    pruned = read(result.model)
    onnx.checker.check_model(pruned, full_check=True)
    assert macs(pruned) / macs(tiny_model()) <= 0.5
    now = given.read_bytes() if kind == "path" else given if kind == "bytes" else read(given).SerializeToString()
    assert now == state
    assert list(run(pruned, {"x": tiny_inputs(2)})) == ["y"]


def test_what_surrounds_the_graph_survives() -> None:
    model = tiny_model()
    model.producer_name, model.doc_string, model.graph.doc_string = "someone", "a model", "a graph"
    onnx.helper.set_model_props(model, {"labels": "a,b"})
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 3))
    out = prune(model, tiny_inputs()).model
    assert (out.ir_version, out.producer_name, out.doc_string) == (8, "someone", "a model")
    assert {o.domain: o.version for o in out.opset_import} == {"": 17, "com.example": 3}
    assert {p.key: p.value for p in out.metadata_props} == {"labels": "a,b"}
    assert (out.graph.name, out.graph.doc_string) == (model.graph.name, "a graph")
    assert list(out.graph.input) == list(model.graph.input)
    assert list(out.graph.output) == list(model.graph.output)


def test_nothing_unread_is_left_in_the_model() -> None:
    for out in (prune(resnet(), pictures(24)).model, tiny(method="magnitude", rebuild="none").model):
        read = {name for node in out.graph.node for name in node.input}
        assert set(constants(out)) <= read


@pytest.mark.parametrize("method", ["random", "magnitude", "thinet", "lasso", "obs"])
def test_a_run_is_repeated_bit_for_bit(method: str) -> None:
    first, again = (tiny(method=method, seed=4) for _ in range(2))
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)
    assert first.plan == again.plan


def test_another_seed_makes_another_random_choice() -> None:
    plans = {tiny(method="random", rebuild="none", ratio=0.5, seed=seed).plan.model_dump_json() for seed in range(4)}
    assert len(plans) == 4


def test_a_config_and_options_make_one_set_of_options() -> None:
    result = prune(tiny_model(), tiny_inputs(), config=Config(method="magnitude", rebuild="none", ratio=0.5), seed=9)
    assert (result.report.config.method, result.report.config.ratio, result.report.config.seed) == ("magnitude", 0.5, 9)
    assert result.report.config.samples == 32


# Methods and rebuilds


@pytest.mark.parametrize("method", ["random", "magnitude", "thinet", "lasso", "obs"])
@pytest.mark.parametrize("rebuild", ["lsq", "scale", "none"])
def test_every_method_runs_on_residual_blocks_with_every_rebuild(method: str, rebuild: str) -> None:
    result = prune(resnet(), pictures(40), method=method, rebuild=rebuild, macs=0.6, allocate="uniform")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.proof < 1e-5
    assert macs(result.model) / macs(resnet()) <= 0.6
    assert bool(result.report.layers) == (rebuild != "none")
    assert {g.method for g in result.report.groups if g.kept < g.width} == {method}
    assert np.isfinite(error(result.model, resnet(), pictures(16, seed=8)))


def test_solving_again_beats_factors_and_factors_beat_nothing() -> None:
    fresh = pictures(64, seed=8)
    found = {
        rebuild: error(prune(resnet(), pictures(96), samples=96, ratio=0.3, rebuild=rebuild).model, resnet(), fresh)
        for rebuild in ("lsq", "scale", "none")
    }
    assert found["lsq"] < 0.7 * found["none"]
    assert found["lsq"] < found["scale"] < found["none"]


def test_the_default_loses_less_than_plain_magnitude() -> None:
    fresh = pictures(64, seed=8)
    ask: dict[str, Any] = {"samples": 96, "macs": 0.5}
    ours = error(prune(resnet(), pictures(96), **ask).model, resnet(), fresh)
    plain = error(prune(resnet(), pictures(96), **ask, method="magnitude", rebuild="none").model, resnet(), fresh)
    assert ours < 0.5 * plain


def test_a_rebuild_makes_no_layer_worse_on_held_out_rows() -> None:
    layers = prune(resnet(), pictures(96), samples=96, ratio=0.4).report.layers
    assert {layer.name for layer in layers} == RESNET_LAYERS - {"Conv:s"}
    assert all(0 <= layer.after <= layer.before + 1e-9 for layer in layers)


def test_without_rebuild_what_stays_is_what_was() -> None:
    result = tiny(method="magnitude", rebuild="none", ratio=0.5)
    before = constants(tiny_model())
    for cut in (cut for group in result.plan.groups for cut in group.cuts):
        before[cut.tensor] = before[cut.tensor].take(cut.kept, cut.axis)
    after = constants(result.model)
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])


# Shapes, types and inputs


def test_a_batch_size_that_is_fixed_stays_fixed() -> None:
    model = tiny_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    result = prune(model, tiny_inputs())
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert macs(result.model) / macs(tiny_model()) <= 0.5
    free = tiny()
    assert result.report.before.macs == free.report.before.macs
    assert error_by_one(result.model, tiny_model()) < 1.0


def error_by_one(pruned: onnx.ModelProto, original: onnx.ModelProto) -> float:
    inputs = tiny_inputs()
    found = np.concatenate([run(pruned, {"x": x[None]})["y"] for x in inputs])
    wanted = run(original, {"x": inputs})["y"]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(0)))


@pytest.mark.parametrize(("kind", "op", "allowed"), [("double", "Gemm", 1e-10), ("float16", "Conv", 5e-3)])
def test_other_precisions_keep_their_type_and_their_tolerance(kind: str, op: str, allowed: float) -> None:
    rng, dtype = np.random.default_rng(0), np.dtype({"double": "float64"}.get(kind, kind))
    if op == "Gemm":
        body = "h0 = Gemm (x, a_w, a_b) r0 = Relu (h0) h1 = Gemm (r0, b_w) r1 = Tanh (h1) y = Gemm (r1, c_w)"
        shapes = {"a_w": (6, 12), "a_b": (12,), "b_w": (12, 10), "c_w": (10, 3)}
        signature, x = f"({kind}[N,6] x) => ({kind}[N,3] y)", rng.standard_normal((64, 6))
    else:
        body, signature = BODY, f"({kind}[N,3,8,8] x) => ({kind}[N,4] y)"
        shapes, x = {k: v for k, v in WEIGHTS.items() if isinstance(v, tuple)}, tiny_inputs()
    single = model_from_text("() => ()", "", shapes)
    arrays: Weights = {name: array.astype(dtype) for name, array in constants(single).items()}
    model = model_from_text(signature, body, arrays)
    result = prune(model, x.astype(dtype), params=0.6)
    assert {a.dtype for a in constants(result.model).values()} == {dtype}
    assert 0 <= result.report.proof <= allowed
    assert params(result.model) <= 0.6 * params(model)
    y = run(result.model, {"x": x[:4].astype(dtype)})["y"]
    assert y.dtype == dtype and np.all(np.isfinite(y))


def test_channels_last_inputs_are_pruned_behind_their_transpose() -> None:
    body = "t = Transpose <perm = [0, 3, 1, 2]> (z)" + BODY.replace("(x,", "(t,")
    model = model_from_text("(float[N,8,8,3] z) => (float[N,4] y)", body, WEIGHTS)
    result = prune(model, tiny_inputs().transpose(0, 2, 3, 1).copy(), macs=0.5)
    assert macs(result.model) / macs(model) <= 0.5
    assert run(result.model, {"z": tiny_inputs(3).transpose(0, 2, 3, 1)})["y"].shape == (3, 4)


def test_several_inputs_are_fed_by_name() -> None:
    body = BODY.replace(
        "f = Flatten (g)", "f0 = Flatten (g) e = Gemm (v, e_w) er = Relu (e) f = Concat <axis = 1> (f0, er)"
    )
    weights = {**WEIGHTS, "fc_w": (4, 14), "e_w": (5, 6)}
    model = model_from_text("(float[N,3,8,8] x, float[N,5] v) => (float[N,4] y)", body, weights)
    v = np.random.default_rng(2).standard_normal((32, 5)).astype(np.float32)
    result = prune(model, {"x": tiny_inputs(), "v": v}, ratio=0.5)
    assert constants(result.model)["e_w"].shape == (5, 3)
    assert constants(result.model)["fc_w"].shape == (4, 7)
    assert [i.name for i in result.model.graph.input] == ["x", "v"]
    with pytest.raises(BadInput, match="'v'"):
        prune(model, {"x": tiny_inputs()})


# Data and figures


def test_without_data_the_run_is_careful_and_says_what_that_costs() -> None:
    result = prune(tiny_model(), None)
    assert (result.report.budget.kind, result.report.budget.target) == ("macs", 0.75)
    assert macs(result.model) / macs(tiny_model()) <= 0.75
    assert result.report.calibration is not None and result.report.calibration.synthetic
    (note,) = result.report.notes
    assert note.startswith("No real data was seen") and note.endswith("The budget is the careful 0.75.")


@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"ratio": 0.5}, {"ratio": 0.0}, {"ratios": {"Conv:h0": 0.5}}])
def test_a_budget_that_was_given_is_not_called_careful(budget: dict[str, Any]) -> None:
    (note,) = prune(tiny_model(), None, method="magnitude", rebuild="none", **budget).report.notes
    assert "careful" not in note


def test_the_report_has_the_figures_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.measure.BENCH_SECONDS", 0.05)
    x = tiny_inputs(64)
    result = prune(tiny_model(), x, macs=0.5, measure=True, samples=48)
    report = result.report
    assert report.calibration is not None and report.calibration.samples == 48
    assert report.calibration.disk_bytes > 0
    assert report.fidelity is not None and (report.fidelity.samples, report.fidelity.held_out) == (16, True)
    wanted, found = run(tiny_model(), {"x": x[48:]})["y"], run(result.model, {"x": x[48:]})["y"]
    assert report.fidelity.relative_error == pytest.approx(
        np.linalg.norm(found - wanted) / np.linalg.norm(wanted), rel=1e-3
    )
    assert report.fidelity.top1_agreement == np.mean(wanted.argmax(1) == found.argmax(1))
    assert [latency.batch for latency in report.latency] == [1]


def test_a_metric_of_the_users_is_measured_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "float(abs(session.run(None, {'x': np.ones((1, 3, 8, 8), 'f4')})[0]).sum())"
    (tmp_path / "my_metric.py").write_text(f"import numpy as np\n\ndef size(session):\n    return {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    result = compress(tiny_model(), calib=tiny_inputs(), metric="my_metric:size", **QUICK)
    told, one = result.report.accuracy, {"x": np.ones((1, 3, 8, 8), np.float32)}
    assert told is not None and told.metric == "my_metric:size"
    assert told.before == pytest.approx(np.abs(run(tiny_model(), one)["y"]).sum(), rel=1e-5)
    assert told.after == pytest.approx(np.abs(run(result.model, one)["y"]).sum(), rel=1e-5)


def test_an_unknown_option_or_method_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=re.escape("there is no option 'mac': did you mean macs")):
        tiny(mac=0.5)
    with pytest.raises(BadInput, match="magnitude"):
        tiny(method="magnitud")
