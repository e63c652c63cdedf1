"""A new head in a whole run: budgets, several outputs, plans, fine-tuning, the command line, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model, write_case
from dense_mask import run as infer
from graph_text import model_from_text
from head_case import BODY, CONVS, DENSE, TAIL, headed, inputs, values, vgg
from model_counts import constants, macs, params

from onnxprune.cli import run
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.pipeline import Result, compress
from onnxprune.plan import load_plan
from onnxprune.replay import apply_plan
from onnxprune.report import Report

PRUNED: dict[str, Any] = {"method": "obs", "rebuild": "lsq", "align": 1, "samples": 128, "measure": False}
TWO = "(float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 24] features)"


def bits(model: onnx.ModelProto) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in constants(model).items()}


def test_budgets_are_shares_of_the_original() -> None:
    model = vgg()
    result = compress(model, calib=inputs(), head="gap", macs=0.5, **PRUNED)
    assert result.report.before.macs == macs(model)
    assert result.report.before.params == params(model)
    assert 0.4 * macs(model) < macs(result.model) <= 0.5 * macs(model)
    assert macs(result.model) == result.report.after.macs
    assert result.report.budget.reached == pytest.approx(macs(result.model) / macs(model))
    assert result.report.proof < 1e-5


def test_a_share_of_parameters_counts_what_the_tail_had() -> None:
    model = vgg()
    result = compress(model, calib=inputs(), head="gap", params=0.15, **PRUNED)
    assert params(result.model) <= 0.15 * params(model)
    assert any(group.kept < group.width for group in result.report.groups)


@pytest.mark.parametrize("budget", [{"macs": 0.999}, {"params": 0.3}, {"macs": 1}])
def test_where_the_head_alone_meets_the_budget_nothing_else_goes(budget: dict[str, float]) -> None:
    report = compress(vgg(), calib=inputs(), head="gap", **PRUNED, **budget).report
    assert all(group.kept == group.width for group in report.groups)
    assert {group.reason for group in report.groups} == {"the new head alone meets the budget"}
    assert "the new head alone meets the budget" in report.allocation
    assert any("no channel had to go" in note for note in report.notes)
    assert report.layers == ()


@pytest.mark.parametrize("method", ["nisp", "thinet", "random"])
def test_other_methods_prune_behind_a_new_head(method: str) -> None:
    result = compress(vgg(), calib=inputs(), head="gap", **PRUNED | {"method": method}, macs=0.6)
    assert macs(result.model) <= 0.6 * macs(vgg())
    assert result.report.proof < 1e-5


def test_gates_are_steered_to_a_share_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("onnxprune.gradients.l0.STEPS", 20)
    result = compress(vgg(), calib=inputs(), head="gap", **PRUNED | {"method": "l0"}, params=0.15)
    assert params(result.model) <= 0.15 * params(vgg())
    assert any("asked for were 15.0%" in note for note in result.report.notes)


def test_fidelity_and_accuracy_compare_with_the_original(tmp_path: Path) -> None:
    model, fresh = vgg(), inputs(64, seed=9)
    labels = infer(model, {"x": fresh})["y"].argmax(1)
    np.savez(tmp_path / "eval.npz", x=fresh, y=labels)
    report = headed(model, measure=True, eval=tmp_path / "eval.npz").report
    assert report.accuracy is not None
    assert report.fidelity is not None
    assert report.accuracy.before == 1.0
    assert report.accuracy.after < 1.0
    assert report.fidelity.relative_error > 0


def test_each_output_gets_a_head_of_its_own_on_one_pool() -> None:
    model = vgg(TAIL.replace("r2 = Relu", "features = Relu").replace("(r2)", "(features)"), signature=TWO)
    result = headed(model)
    assert {head.outputs for head in result.report.heads} == {("y",), ("features",)}
    kinds = [node.op_type for node in result.model.graph.node]
    assert kinds.count("GlobalAveragePool") == 1
    assert kinds.count("Gemm") == 2
    assert result.model.graph.output == model.graph.output


def test_two_outputs_of_one_layer_share_its_head() -> None:
    tail = TAIL.replace("z = Gemm", "scores = Gemm").replace("(z)", "(scores)")
    result = headed(vgg(tail, signature="(float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 5] scores)"))
    assert [head.outputs for head in result.report.heads] == [("y", "scores")]


def test_an_output_that_cannot_be_replaced_stays_and_says_why() -> None:
    tail = TAIL + "m = Conv (r1, m_w)"
    model = vgg(tail, DENSE | {"m_w": (2, 12, 1, 1)}, "(float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 2, 4, 4] m)")
    result, fresh = headed(model), inputs(3, seed=9)
    assert any(note.startswith("Output 'm' keeps its head: its last layers give 'm'") for note in result.report.notes)
    np.testing.assert_allclose(infer(result.model, {"x": fresh})["m"], infer(model, {"x": fresh})["m"], atol=1e-6)


def test_a_layer_that_another_output_is_computed_from_stays() -> None:
    tail = TAIL + "b = Reshape (z, wide) m = Conv (b, m_w)"
    weights = DENSE | {"wide": np.array([-1, 1, 5, 1]), "m_w": (2, 1, 3, 1)}
    model = vgg(tail, weights, "(float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 2, 3, 1] m)")
    with pytest.raises(BadInput, match="output 'm' is computed from 'z' as well"):
        headed(model)


def test_made_up_inputs_are_owned_up_to() -> None:
    report = compress(vgg(), head="gap", macs=1, samples=32, measure=False).report
    assert any("fitted on made-up inputs" in note for note in report.notes)


def test_a_plan_holds_the_head_and_replays_to_the_same_bits() -> None:
    made = headed(vgg(), macs=0.5)
    plan = type(made.plan).model_validate_json(made.plan.model_dump_json())
    assert plan.schema_version == 2
    applied = apply_plan(vgg(), plan, config=Config(samples=16, measure=False))
    assert bits(applied.model) == bits(made.model)
    assert applied.report.after.macs == made.report.after.macs
    assert applied.report.before == made.report.before
    assert applied.report.heads[0].ridge is None


def test_a_plan_with_the_data_of_the_run_rebuilds_the_same_weights() -> None:
    made = compress(vgg(), calib=inputs(), head="gap", macs=0.5, **PRUNED)
    applied = apply_plan(vgg(), made.plan, calib=inputs(), config=Config(**PRUNED))
    assert bits(applied.model) == bits(made.model)


def test_a_plan_of_the_head_alone_replays_too() -> None:
    made = headed(vgg())
    assert bits(apply_plan(vgg(), made.plan, config=Config(samples=16)).model) == bits(made.model)


def test_a_plan_says_what_another_model_lacks() -> None:
    plan = headed(vgg()).plan
    with pytest.raises(BadInput, match="from 'r1' to 'z': this model has no such tail"):
        apply_plan(tiny_model(), plan)
    other = vgg(weights := TAIL, DENSE | {"e_w": (7, 24), "e_b": (7,)}, "(float[N, 3, 8, 8] x) => (float[N, 7] y)")
    assert weights
    with pytest.raises(BadInput, match="needs 7 of 12"):
        apply_plan(other, plan)
    broken = plan.model_copy(update={"heads": (plan.heads[0].model_copy(update={"weight": "?"}),)})
    with pytest.raises(BadInput, match="a tensor that cannot be read"):
        apply_plan(vgg(), broken)


def tuned(**options: Any) -> tuple[Result, Result]:
    """Without and with a fine-tune."""
    pytest.importorskip("torch")
    data = inputs(512)
    given = {"head": "gap", **PRUNED, "macs": 0.8, **options}
    return compress(vgg(), calib=data, **given), compress(vgg(), calib=data, **given, finetune=6, lr=5e-3)


def apart(model: onnx.ModelProto) -> float:
    """From the original, in the scores before the Softmax."""
    fresh = inputs(64, seed=9)
    (found,), (wanted,) = values(model, ["z"], fresh), values(vgg(), ["z"], fresh)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("options", [{}, {"macs": 1}, {"match_features": True}])
def test_a_fine_tune_trains_the_new_head_toward_the_original(options: dict[str, Any]) -> None:
    plain, better = tuned(**options)
    assert better.report.tuned is not None
    assert better.report.tuned.best > 0
    assert apart(better.model) < apart(plain.model)
    name = next(name for name, array in constants(plain.model).items() if name.startswith("z.head") and array.ndim == 2)
    assert bits(better.model)[name] != bits(plain.model)[name]
    assert better.report.proof < 1e-5


@pytest.mark.parametrize(
    ("tail", "more", "reason"),
    [
        ("g = GlobalAveragePool (r1) f = Flatten (g) y = Gemm <transB = 1> (f, e_w)", {"e_w": (5, 12)}, "one layer on"),
        (
            "k = Conv (r1, e_w) g = GlobalAveragePool (k) y = Flatten (g)",
            {"e_w": (5, 12, 1, 1)},
            "its last layers give",
        ),
        (
            "a = GlobalAveragePool (r1) f = Flatten (a) u = Gemm <transB = 1> (f, d_w) y = Gemm <transB = 1> (u, e_w)",
            {"d_w": (2, 12), "e_w": (5, 2)},
            "no smaller than its tail",
        ),
        (
            "u = Conv (r1, d_w) a = GlobalAveragePool (u) b = GlobalMaxPool (r1) c = Concat <axis = 1> (a, b)"
            " f = Flatten (c) y = Gemm <transB = 1> (f, e_w)",
            {"d_w": (8, 12, 1, 1), "e_w": (5, 20)},
            "behind 'r1' still has positions",
        ),
    ],
)
def test_what_has_no_tail_is_refused(tail: str, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=f"--head gap finds no tail to replace: output 'y'.*{reason}"):
        headed(vgg(tail, more))


def test_layers_on_the_input_itself_are_no_tail() -> None:
    body = "f = Flatten (x) h = Gemm <transB = 1> (f, d_w) r = Relu (h) y = Gemm <transB = 1> (r, e_w)"
    model = model_from_text("(float[N, 3, 8, 8] x) => (float[N, 5] y)", body, {"d_w": (24, 192), "e_w": (5, 24)})
    with pytest.raises(BadInput, match="it reads the input 'x' itself"):
        headed(model)


def test_a_second_input_that_joins_the_tail_keeps_it() -> None:
    tail = TAIL.replace("h2 = Gemm <transB = 1> (f,", "j = Concat <axis = 1> (f, s) h2 = Gemm <transB = 1> (j,")
    signature = "(float[N, 3, 8, 8] x, float[N, 4] s) => (float[N, 5] y)"
    model = model_from_text(signature, BODY + tail, {**CONVS, **DENSE, "d_w": (24, 196)})
    data = {"x": inputs(), "s": np.zeros((200, 4), np.float32)}
    with pytest.raises(BadInput, match="no value with positions is passed by all paths"):
        headed(model, data)


@pytest.mark.parametrize(
    "options",
    [{"keep": "d_w"}, {"keep": "z"}, {"keep": "h2*"}, {"only": "d_w"}, {"macs": None, "ratios": {"e_*": 0.5}}],
)
def test_options_cannot_name_a_part_of_the_tail(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="which a new head takes the place of"):
        headed(vgg(), **options)


def test_what_keep_names_outside_the_tail_stays() -> None:
    result = compress(vgg(), calib=inputs(), head="gap", **PRUNED, keep="c1_w", macs=0.7)
    assert bits(result.model)["c1_b"] == bits(vgg())["c1_b"]
    assert constants(result.model)["c0_w"].shape[0] < 8


def test_the_command_line_writes_the_head_and_replays_its_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(vgg(), tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", x=inputs())
    model, calib = str(tmp_path / "in.onnx"), str(tmp_path / "calib.npz")
    outputs = ["-o", str(tmp_path / "out.onnx"), "--plan", str(tmp_path / "plan.json")]
    report = str(tmp_path / "report.json")
    assert (
        run([model, "--calib", calib, "--macs", "1", "--head", "gap", "--no-measure", *outputs, "--report", report])
        == 0
    )
    out = capsys.readouterr().out
    assert "new head  y: one layer of 5 on the means of the 12 channels of r1, solved on" in out
    assert "no channel had to go" in out
    assert "multiples of" not in out
    held = Report.model_validate_json((tmp_path / "report.json").read_text()).heads[0]
    assert held.error is not None
    assert load_plan(tmp_path / "plan.json").heads[0].target == "z"
    assert run(["apply", model, str(tmp_path / "plan.json"), "-o", str(tmp_path / "again.onnx"), "--no-measure"]) == 0
    assert "as the plan has it" in capsys.readouterr().out
    fresh = {"x": inputs(3, seed=9)}
    models = [onnx.load(tmp_path / name) for name in ("out.onnx", "again.onnx")]
    one, other = (infer(model, fresh)["y"] for model in models)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_command_line_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, calib = write_case(tmp_path)
    assert run([str(model), "--calib", str(calib), "--head", "gap", "-o", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "one layer on the 8 channels of 'r1' already" in error
    assert not (tmp_path / "out.onnx").exists()
    assert tiny_inputs().shape[0] == 32
