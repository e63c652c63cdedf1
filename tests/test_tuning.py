"""Fine-tuning behind a rebuild: proved all the same, from the command line, and refused in one sentence."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import FAST, tiny_inputs, tiny_model, write_case
from model_counts import constants
from pipeline_case import error, pictures, prune, resnet, tiny

from onnxprune import finetune
from onnxprune.cli import run
from onnxprune.errors import BadInput
from onnxprune.report import Finetuned, Report

TUNED: dict[str, Any] = {"finetune": 2, "train_batch": 16}
SHORT = ("--train-batch", "8", "--validation", "0.25", *FAST)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def torch() -> None:
    pytest.importorskip("torch")


def test_a_tuned_model_is_nearer_and_still_proved() -> None:
    torch()
    data, fresh = pictures(512), pictures(64, seed=9)
    options = {"ratio": 0.5, "rebuild": "none", "method": "magnitude", "allocate": "uniform"}
    plain = prune(resnet(), data, **options)
    tuned = prune(resnet(), data, **options, **TUNED, lr=5e-3)
    assert error(tuned.model, resnet(), fresh) < 0.8 * error(plain.model, resnet(), fresh)
    assert tuned.report.proof < 1e-5
    assert tuned.report.tuned is not None
    assert tuned.report.tuned.best > 0
    shapes = [{name: array.shape for name, array in constants(one.model).items()} for one in (plain, tuned)]
    assert shapes[0] == shapes[1]


def test_what_layers_read_is_matched_on_the_channels_that_stay() -> None:
    torch()
    result = tiny(**TUNED, ratio=0.5, match_features=True, lr=1e-3)
    told = result.report.tuned
    assert told is not None
    assert {"r0", "f"} <= told.loss.keys()
    assert result.report.proof < 1e-5


def test_what_keep_names_is_not_tuned() -> None:
    torch()
    before, after = constants(tiny_model()), constants(tiny(**TUNED, keep="fc_w", validation=0).model)
    assert before["fc_w"].tobytes() == after["fc_w"].tobytes()
    assert before["c0_w"].shape != after["c0_w"].shape


def test_no_epoch_is_kept_that_makes_things_worse() -> None:
    torch()
    plain, tuned = tiny(ratio=0.25), tiny(**TUNED, ratio=0.25, optimizer="sgd", lr=10.0, clip=1.0)
    assert tuned.report.tuned is not None
    assert tuned.report.tuned.best == 0
    before, after = constants(plain.model), constants(tuned.model)
    assert {name: array.tobytes() for name, array in before.items()} == {n: a.tobytes() for n, a in after.items()}


def test_patience_ends_a_run() -> None:
    torch()
    tuned = tiny(**TUNED | {"finetune": 9}, optimizer="sgd", lr=10.0, patience=2).report.tuned
    assert tuned is not None
    assert len(tuned.epochs) == 2


def test_a_run_that_diverges_says_what_to_change() -> None:
    torch()
    with pytest.raises(BadInput, match=r"diverged in epoch . \(loss (nan|inf)\): try a lower --lr"):
        tiny(**TUNED, optimizer="sgd", lr=1e30, clip=0, ema=0, warmup=0)


def test_training_from_scratch_starts_from_other_weights() -> None:
    torch()
    options = {**TUNED, "ratio": 0.5, "optimizer": "sgd", "lr": 1e-30, "validation": 0}
    old, new, again = (tiny(**options, **more) for more in ({}, {"reinit": True}, {"reinit": True}))
    weights = [constants(one.model) for one in (old, new, again)]
    assert weights[1]["c1_w"].tobytes() == weights[2]["c1_w"].tobytes() != weights[0]["c1_w"].tobytes()
    fan_in = weights[1]["c1_w"][0].size
    assert weights[1]["c1_w"].std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)
    assert np.abs(weights[1]["fc_b"]).max() < 1e-20


def test_the_main_form_tunes_what_it_pruned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch()
    arguments = ["in.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--finetune", "2", "--report", "r.json", *SHORT]
    assert run(arguments) == 0
    told = Report.model_validate_json((folder / "r.json").read_text()).tuned
    assert told is not None
    assert (len(told.epochs), told.labels, told.processes) == (2, True, 1)
    assert (told.samples, told.judges) == (12, 4)  # of 32: the other 16 are held out for the report
    out = capsys.readouterr().out
    assert "epoch 2  loss" in out
    onnx.checker.check_model("out.onnx", full_check=True)
    assert sorted(p.name for p in folder.iterdir()) == ["calib.npz", "in.onnx", "out.onnx", "r.json"]


def test_finetune_trains_a_model_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch()
    assert run(["in.onnx", "-o", "slim.onnx", "--calib", "calib.npz", "--rebuild", "none", "--quiet", *FAST]) == 0
    arguments = ["slim.onnx", "--teacher", "in.onnx", "-o", "out.onnx", "--train", "calib.npz", "--epochs", "3"]
    assert run(["finetune", *arguments, "--json", *SHORT[:4]]) == 0
    report = Finetuned.model_validate_json(capsys.readouterr().out)
    assert report.fidelity is not None
    assert len(report.tuned.epochs) == 3
    before, after = (constants(onnx.load(name)) for name in ("slim.onnx", "out.onnx"))
    assert {n: a.shape for n, a in before.items()} == {n: a.shape for n, a in after.items()}


def test_a_run_that_was_ended_goes_on_from_the_file_beside_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch()
    from onnxprune.training import optimise

    arguments = ["in.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--finetune", "3", "--quiet", *SHORT]
    assert run(arguments) == 0
    whole = (folder / "out.onnx").read_bytes()
    plain, calls = optimise.Optimiser.step, iter(range(99))

    def ended(*given: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        plain(*given)

    monkeypatch.setattr(optimise.Optimiser, "step", ended)
    (folder / "out.onnx").unlink()
    assert run(arguments) == 130
    assert (folder / "out.onnx.checkpoint").exists()
    assert not (folder / "out.onnx").exists()
    monkeypatch.setattr(optimise.Optimiser, "step", plain)
    assert run([*arguments, "--resume"]) == 0
    assert (folder / "out.onnx").read_bytes() == whole
    assert not (folder / "out.onnx.checkpoint").exists()


@pytest.mark.parametrize(
    "command", [["in.onnx", "--finetune", "1"], ["finetune", "in.onnx", "--teacher", "in.onnx"]], ids=["main", "own"]
)
def test_without_torch_it_says_what_to_install(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run([*command, "-o", "out.onnx"]) == 2
    error = capsys.readouterr().err
    assert "fine-tuning needs torch" in error
    assert "pip install 'onnxprune[torch]'" in error
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "--loss distill needs the original model: --teacher original.onnx"),
        ({"loss": "ce"}, "--loss ce needs labels"),
        ({"loss": "accuracy"}, "--loss should be distill, ce, mse or module:function"),
        ({"loss": "ce", "train": {"x": tiny_inputs(), "y": np.zeros(32, int)}, "match_features": True}, "--teacher"),
        ({"teacher": resnet(), "train": tiny_inputs()}, "--teacher: its inputs|--teacher: its outputs|cannot run"),
        ({"teacher": tiny_model(), "keep": "nothing*"}, "--keep 'nothing.*' matches no node"),
        ({"teacher": tiny_model(), "resume": True, "augment": "turn"}, "--augment"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], told: str) -> None:
    torch()
    with pytest.raises(BadInput, match=told):
        finetune(tiny_model(), **{"train": tiny_inputs(), **options})


def test_processes_but_the_first_write_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "RANK", "1")
    assert run(["in.onnx", "-o", "out.onnx", "--calib", "calib.npz", *FAST]) == 0
    assert not (folder / "out.onnx").exists()
    assert capsys.readouterr().out == ""
