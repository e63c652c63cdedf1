"""Plans: what they hold, how they are read, and that replaying one gives the same bits."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model, write_case

from onnxprune.cli import run
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.pipeline import compress
from onnxprune.plan import Plan, load_plan
from onnxprune.replay import apply_plan

QUICK = {"align": 1, "samples": 16, "measure": False, "macs": 0.5}


def constants(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compress(tiny_model(), calib=tiny_inputs(), method="magnitude", rebuild="none", **QUICK).plan


def test_replaying_a_removal_gives_the_same_bits(plan: Plan) -> None:
    pruned = compress(tiny_model(), calib=tiny_inputs(), method="magnitude", rebuild="none", **QUICK)
    applied = apply_plan(tiny_model(), plan, config=Config(**QUICK))
    assert constants(applied.model) == constants(pruned.model)
    assert applied.report.after.params == pruned.report.after.params
    assert applied.report.budget.kind == "plan"
    assert "Removal only" in applied.report.notes[0]
    assert applied.plan == plan


def test_a_removal_is_the_slices_that_the_plan_names(plan: Plan) -> None:
    before = {t.name: onnx.numpy_helper.to_array(t) for t in tiny_model().graph.initializer}
    after = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in apply_plan(tiny_model(), plan, config=Config(**QUICK)).model.graph.initializer
    }
    for cut in (cut for group in plan.groups for cut in group.cuts):
        before[cut.tensor] = before[cut.tensor].take(cut.kept, cut.axis)
    assert any(len(group.kept) < group.width for group in plan.groups)
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])


def test_replaying_with_the_data_of_the_run_rebuilds_the_same_weights() -> None:
    pruned = compress(tiny_model(), calib=tiny_inputs(), method="obs", **QUICK)
    applied = apply_plan(tiny_model(), pruned.plan, calib=tiny_inputs(), config=Config(**QUICK))
    assert constants(applied.model) == constants(pruned.model)
    assert applied.report.notes == ()
    assert {layer.name for layer in applied.report.layers} == {layer.name for layer in pruned.report.layers}


def test_a_plan_survives_its_file(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    assert load_plan(tmp_path / "plan.json") == plan
    assert plan.removed() == {g.name: [i for i in range(g.width) if i not in g.kept] for g in plan.groups}


def changed(plan: Plan, **changes: object) -> Plan:
    first = plan.groups[0].model_copy(update=changes)
    return plan.model_copy(update={"groups": (first, *plan.groups[1:])})


BAD = {
    "this model has no such group": {"name": "h9"},
    "this model has width 8": {"width": 9},
    "must keep some of 0 … 7, each once": {"kept": ()},
    r"must keep some of 0 … 7": {"kept": (1, 8)},
    r"each once": {"kept": (1, 1)},
}


@pytest.mark.parametrize("told", BAD)
def test_a_plan_of_another_model_is_refused(plan: Plan, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        apply_plan(tiny_model(), changed(plan, **BAD[told]))


def test_the_command_applies_a_plan(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, calib = write_case(tmp_path)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    output, arguments = tmp_path / "out.onnx", [str(model), str(tmp_path / "plan.json")]
    removed = constants(apply_plan(tiny_model(), plan, config=Config(**QUICK)).model)
    assert run(["apply", *arguments, "-o", str(output), "--no-measure", "--report", str(tmp_path / "r.json")]) == 0
    assert constants(onnx.load(output)) == removed
    assert json.loads((tmp_path / "r.json").read_text())["budget"]["kind"] == "plan"
    assert "Removal only" in capsys.readouterr().out
    solved = ["--calib", str(calib), "--samples", "16", "--no-measure"]
    assert run(["apply", *arguments, "-o", str(output), *solved]) == 0
    assert constants(onnx.load(output)) != removed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "groups"),
        ("no json", "is not a plan"),
        ('{"schema_version": 99, "groups": []}', "schema_version"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = write_case(tmp_path)
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    assert run(["apply", str(model), str(tmp_path / "plan.json"), "-o", str(tmp_path / "out.onnx")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
