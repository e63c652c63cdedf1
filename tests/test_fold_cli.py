"""`onnxprune fold` from end to end, in this process."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_case import tiny_model
from dense_mask import max_relative_difference, run
from model_counts import constants
from topologies import feeds

from onnxprune import cli
from onnxprune.folding import FoldReport


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    for tensor in model.graph.initializer:
        if tensor.name == "c1_w":  # what reads the first convolution
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, [2, 5]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "c1_w"))
    onnx.save(model, "in.onnx")
    return tmp_path


def test_fold_writes_a_smaller_model_and_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fold", "in.onnx", "-o", "out.onnx", "--report", "report.json"]) == 0
    out, err = capsys.readouterr()
    before, after = onnx.load("in.onnx"), onnx.load("out.onnx")
    assert constants(after)["c0_w"].shape == (6, 3, 3, 3)
    inputs = feeds(before, 3)
    assert max_relative_difference(run(after, inputs), run(before, inputs)) < 1e-5
    report = FoldReport.model_validate_json(Path("report.json").read_text(encoding="utf-8"))
    assert [(group.name, group.width, group.dead) for group in report.groups] == [("Conv:h0", 8, 2)]
    assert report.after.macs < report.before.macs
    for told in ("Conv:h0", "multiply–adds", "parameters", "proof", "wrote  out.onnx"):
        assert told in out
    assert err == ""


def test_a_dry_run_writes_nothing_and_json_is_all_that_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["fold", "in.onnx", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["dead"] == 2
    assert [path.name for path in folder.iterdir()] == ["in.onnx"]


def test_a_run_that_folds_nothing_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(tiny_model(), "plain.onnx")
    assert cli.run(["fold", "plain.onnx", "-o", "out.onnx"]) == 0
    assert "Nothing was folded" in capsys.readouterr().out
    before, after = constants(onnx.load("plain.onnx")), constants(onnx.load("out.onnx"))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_fold_without_an_output_is_refused_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fold", "in.onnx"]) == 2
    assert "-o out.onnx" in capsys.readouterr().err
