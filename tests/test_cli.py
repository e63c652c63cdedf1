"""The command line from end to end, in this process; its help, and its exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_case import FAST, write_case
from graph_text import integers, model_from_text

from onnxprune import cli
from onnxprune.cli import SUBCOMMANDS, run
from onnxprune.config import Config
from onnxprune.criteria import CRITERIA
from onnxprune.errors import ProofFailed
from onnxprune.report import Report


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(path: str | Path) -> dict[str, bytes]:
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in onnx.load(path).graph.initializer}


def channels(path: str | Path, name: str) -> int:
    return next(t.dims[0] for t in onnx.load(path).graph.initializer if t.name == name)


def ran(*arguments: str) -> None:
    assert run(list(arguments)) == 0


def test_the_main_form_writes_model_plan_and_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "in.onnx").read_bytes()
    ran("in.onnx", "--method", "lasso", "-o", "out.onnx", "--calib", "calib.npz", "--eval", "calib.npz", *FAST,
        "--plan", "plan.json", "--report", "report.json")  # fmt: skip
    out, err = capsys.readouterr()
    assert err == ""
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert report.config.method == "lasso"
    assert report.after.macs <= 0.5 * report.before.macs
    assert report.accuracy is not None
    plan = json.loads((folder / "plan.json").read_text())
    kept = {group["name"]: len(group["kept"]) for group in plan["groups"]}
    assert kept == {group.name: group.kept for group in report.groups if group.kept < group.width}
    assert channels("out.onnx", "c0_w") + channels("out.onnx", "c1_w") < 16
    onnx.checker.check_model("out.onnx", full_check=True)
    assert (folder / "in.onnx").read_bytes() == before
    for told in ("multiply–adds", "top-1 accuracy", "proof", "allocation", "wrote  out.onnx", "lasso"):
        assert told in out


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(folder.iterdir())
    ran("in.onnx", "--dry-run", "-o", "out.onnx", "--plan", "plan.json", "--calib", "calib.npz", *FAST)
    assert "nothing (--dry-run)" in capsys.readouterr().out
    assert sorted(folder.iterdir()) == names


def test_json_is_the_report_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("in.onnx", "--dry-run", "--json", "--calib", "calib.npz", *FAST)
    out, err = capsys.readouterr()
    assert Report.model_validate_json(out).schema_version == 1
    assert err == ""


def test_quiet_prints_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("in.onnx", "-o", "out.onnx", "--quiet", "--progress", "--calib", "calib.npz", *FAST)
    assert capsys.readouterr() == ("", "")
    assert (folder / "out.onnx").exists()


def test_progress_can_be_forced_and_goes_to_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("in.onnx", "--dry-run", "--json", "--progress", "--calib", "calib.npz", *FAST)
    out, err = capsys.readouterr()
    assert "\x1b[" in err
    assert json.loads(out)["schema_version"] == 1


def test_without_data_the_budget_is_careful_and_the_run_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("in.onnx", "--dry-run", *FAST)
    told = " ".join(capsys.readouterr().out.split())
    assert "macs 0.75 by default" in told
    assert "No real data was seen" in told
    assert "costs accuracy" in told


def test_a_saved_config_reproduces_the_run(folder: Path) -> None:
    ran("in.onnx", "-o", "a.onnx", "--calib", "calib.npz", *FAST, "--macs", "0.6", "--seed", "3", "--keep", "c0_w",
        "--save-config", "used.yaml")  # fmt: skip
    ran("in.onnx", "-o", "b.onnx", "--config", "used.yaml")
    assert weights("a.onnx") == weights("b.onnx")
    assert channels("a.onnx", "c0_w") == 8
    ran("in.onnx", "-o", "c.onnx", "--config", "used.yaml", "--params", "0.9")
    assert channels("c.onnx", "c1_w") > channels("a.onnx", "c1_w")


def test_an_output_is_replaced_and_the_input_too_where_allowed(folder: Path) -> None:
    shutil.copy("in.onnx", "out.onnx")
    ran("in.onnx", "-o", "out.onnx", "--calib", "calib.npz", *FAST)
    replaced = weights("out.onnx")
    assert replaced != weights("in.onnx")
    ran("in.onnx", "-o", "in.onnx", "--overwrite", "--calib", "calib.npz", *FAST)
    assert weights("in.onnx") == replaced


@pytest.mark.parametrize("name", [*(f"{command}.onnx" for command in SUBCOMMANDS), "./inspect"])
def test_a_model_may_be_called_like_a_subcommand(folder: Path, name: str) -> None:
    shutil.copy("in.onnx", name)
    arguments = (name, "--method", "magnitude", "--rebuild", "none", "--calib", "calib.npz")
    ran(*arguments, "-o", "out.onnx", *FAST)
    assert weights("out.onnx") != weights(name)


def test_ratios_come_from_a_file(folder: Path) -> None:
    (folder / "rates.toml").write_text('c0_w = 0.5\n"h?" = 0.25\n')
    ran("in.onnx", "-o", "out.onnx", "--ratios", "rates.toml", "--calib", "calib.npz", *FAST)
    assert (channels("out.onnx", "c0_w"), channels("out.onnx", "c1_w")) == (4, 6)


def test_inspect_tells_groups_costs_and_what_is_closed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("inspect", "in.onnx", "--json", "--input-shape", "x=1,3,8,8")
    found = json.loads(capsys.readouterr().out)
    assert [(g["width"], len(g["writers"]), len(g["readers"])) for g in found["groups"]] == [(8, 1, 1), (8, 1, 1)]
    assert found["totals"]["macs"] == 8 * 8 * 9 * (3 * 8 + 8 * 8) + 8 * 4
    first, second = found["groups"]
    assert first["macs_share"] == pytest.approx(1 - 8 * 4 / found["totals"]["macs"])
    assert second["macs_share"] == pytest.approx((8 * 8 * 9 * 8 * 8 + 8 * 4) / found["totals"]["macs"])
    assert [(c["width"], c["reason"]) for c in found["closed"]] == [(4, "it is an output of the model")]
    assert {"c0_w", "h0"} <= set(first["names"])
    assert found["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 3, 8, 8]}]
    ran("inspect", "in.onnx", "--verbose", "--keep", "c0_w", "--calib", "calib.npz")
    out = capsys.readouterr().out
    assert "--keep names it" in out
    assert "x: float (N, 3, 8, 8)" in out
    assert "of the parameters remain with half of every group gone" in out


def test_bench_times_models_in_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bench", "in.onnx", "in.onnx", "--seconds", "0", "--batch", "2", "--threads", "1")
    ran(*arguments, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["batch"], found["threads"], len(found["models"])) == (2, 1, 2)
    assert found["models"][0]["speedup"] == 1
    assert found["models"][1]["p10_ms"] <= found["models"][1]["median_ms"] <= found["models"][1]["p90_ms"]
    ran(*arguments)
    assert "times as fast" in capsys.readouterr().out


def test_compare_tells_fidelity_and_accuracy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("compare", "in.onnx", "in.onnx", "--calib", "calib.npz", "--eval", "calib.npz", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["fidelity"] == {"samples": 32, "held_out": False, "relative_error": 0.0, "top1_agreement": 1.0}
    assert found["accuracy"]["before"] == found["accuracy"]["after"]
    ran("compare", "in.onnx", "in.onnx", "--calib", "calib.npz")
    assert "outputs differ by 0.0 %" in capsys.readouterr().out


def test_models_with_other_inputs_cannot_be_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("in.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    onnx.save(model, "other.onnx")
    assert run(["compare", "in.onnx", "other.onnx"]) == 2
    assert "the inputs of in.onnx are ['x'], those of other.onnx ['image']" in capsys.readouterr().err


def test_doctor_tells_what_starts(capsys: pytest.CaptureFixture[str]) -> None:
    ran("doctor", "--json")
    assert json.loads(capsys.readouterr().out)["providers"]["CPUExecutionProvider"] is None
    ran("doctor")
    assert "CPUExecutionProvider  starts" in capsys.readouterr().out


def test_doctor_fails_where_two_runtimes_lie_over_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxprune.doctor._version", {"onnxruntime": "1.31", "onnxruntime-gpu": "1.30"}.get)
    assert run(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "onnxruntime-gpu  1.30" in out
    assert err.startswith("onnxprune: error: onnxruntime and onnxruntime-gpu are installed over each other")


def test_help_lists_every_option_and_method(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for arguments in (["--help"], []):
        ran(*arguments)
        out = capsys.readouterr().out
        missing = [name for name in Config.model_fields if f"--{name.replace('_', '-')}" not in out]
        assert missing == []
        assert [name for name in (*SUBCOMMANDS, *CRITERIA) if name not in out] == []
    for command in SUBCOMMANDS:
        ran(command, "--help")
        assert f"onnxprune {command}" in capsys.readouterr().out


def test_help_and_version_load_nothing_heavy() -> None:
    heavy = "{'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'PIL'}"
    code = "import sys; from onnxprune.cli import run; run(['--help']); run(['--version']);"
    code += f"print({heavy} & set(sys.modules))"
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "set()"
    assert "onnxprune 0." in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "onnxprune: interrupted\n"),
        (ProofFailed("output 'y' differs"), 1, "onnxprune: error: output 'y' differs\n"),
        (MemoryError(), 2, "fewer --samples"),
        (ValueError("two\nlines"), 1, "a defect of onnxprune, please report it (ValueError: two lines); --debug"),
    ],
)
def test_errors_have_their_exit_codes(
    error: BaseException,
    code: int,
    told: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("onnxprune.pipeline.compress", fail)
    assert run(["in.onnx", "-o", "out.onnx"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
    assert not (folder / "out.onnx").exists()


def test_debug_prints_the_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["missing.onnx", "--dry-run", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("onnxprune: error: missing.onnx")


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["onnxprune", "missing.onnx", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "missing.onnx" in capsys.readouterr().err


def test_the_sources_of_a_run_are_arrays_too(folder: Path) -> None:
    np.save("calib.npy", np.load("calib.npz")["x"])
    ran("in.onnx", "-o", "a.onnx", "--calib", "calib.npz", *FAST)
    ran("in.onnx", "-o", "b.onnx", "--calib", "calib.npy", *FAST)
    assert weights("a.onnx") == weights("b.onnx")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, "-c", "from onnxprune.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def test_a_metric_of_the_working_folder_is_found_and_any_terminal_will_do(folder: Path) -> None:
    (folder / "mine.py").write_text("def inputs(session):\n    return len(session.get_inputs())\n")
    done = python(
        "in.onnx", "--dry-run", "--calib", "calib.npz", "--metric", "mine:inputs", *FAST, PYTHONIOENCODING="ascii"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine:inputs" in done.stdout
    assert "1.0000" in done.stdout


@pytest.mark.parametrize(
    ("body", "told"),
    [("raise KeyError('a')", "--metric mine2:f failed: KeyError: 'a'"), ("return float('nan')", "returned nan")],
)
def test_a_metric_that_fails_is_not_a_defect_of_ours(
    body: str, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine2.py").write_text(f"def f(session):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "mine2", raising=False)
    assert run(["in.onnx", "--dry-run", "--calib", "calib.npz", "--metric", "mine2:f", *FAST]) == 2
    assert told in capsys.readouterr().err


def test_a_provider_that_is_not_there_is_found_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxprune.pipeline.prepare_headed", lambda *_: pytest.fail("the work was started"))
    assert run(["in.onnx", "--dry-run", "--calib", "calib.npz", "--providers", "NoSuchProvider"]) == 2
    assert "NoSuchProvider is not in this onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect", "d.onnx"], ["d.onnx", "--dry-run"]])
def test_a_model_that_does_not_run_at_a_guessed_size_is_told_in_one_line(
    command: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "h = Reshape (x, s)\ny = Identity (h)"
    onnx.save(model_from_text("(float[N, 3, H, W] x) => (float[A, B] y)", body, {"s": integers(-1, 193)}), "d.onnx")
    assert run(command) == 2
    out, err = capfd.readouterr()  # the runtime writes to the descriptor itself
    assert (out, err.count("\n")) == ("", 1)
    assert "cannot run the model" in err
    assert "--input-shape x=1,3,224,224 (with your sizes)" in err


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM there")
def test_a_terminated_run_leaves_no_temporary_file(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import os, signal\ndef f(session):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return 1\n"
    )
    names = {path.name for path in folder.iterdir()} | {"__pycache__"}
    done = python("in.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--metric", "slow:f", *FAST)
    assert done.returncode == 128 + 15
    assert {path.name for path in folder.iterdir()} <= names
