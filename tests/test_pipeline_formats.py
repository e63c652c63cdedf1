"""The whole run, in and out: models of every kind, shape and precision, what surrounds them, and the figures."""

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
from pipeline_case import QUICK, pictures, prune, resnet, tiny

from onnxprune.calibration.arrays import choose_rows
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.pipeline import compress

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


@pytest.mark.parametrize("method", ["random", "magnitude", "nisp", "thinet", "lasso", "obs"])
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
    apart = {"x": x[choose_rows(64, None, report.config.seed)[48:]]}
    wanted, found = run(tiny_model(), apart)["y"], run(result.model, apart)["y"]
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
