"""Every bad input: one line on standard error, the right exit code, nothing written, nothing changed."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_case import FAST, tiny_inputs, tiny_model, write_case

from onnxprune.cli import run

Case = tuple[list[str], str]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run, check the form of the refusal, and return what it said."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("onnxprune: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    write_case(tmp_path)
    yield tmp_path
    assert not (tmp_path / "out.onnx").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def command(folder: Path, *more: str, model: str = "in.onnx", calib: str = "calib.npz") -> list[str]:
    outputs = ["-o", str(folder / "out.onnx"), "--report", str(folder / "report.json")]
    return [str(folder / model), *outputs, "--calib", str(folder / calib), *FAST, *more]


def said(folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What the refusal says, which leaves the folder as it was."""
    before = snapshot(folder)
    told = refused(arguments, capsys, code)
    assert snapshot(folder) == before
    return told


def not_there(folder: Path) -> None:
    (folder / "bad.onnx").unlink(missing_ok=True)


def a_folder(folder: Path) -> None:
    (folder / "bad.onnx").mkdir()


def truncated(folder: Path) -> None:
    (folder / "bad.onnx").write_bytes((folder / "in.onnx").read_bytes()[:-200])


def no_protobuf(folder: Path) -> None:
    (folder / "bad.onnx").write_bytes(b"GIF89a, not a model" * 20)


def checker_failure(folder: Path) -> None:
    model = tiny_model()
    model.graph.node[0].input[0] = "nobody_makes_this"
    onnx.save(model, folder / "bad.onnx")


def _external(folder: Path, location: str) -> None:
    model = tiny_model()
    tensor = next(t for t in model.graph.initializer if t.name == "c1_w")
    onnx.external_data_helper.set_external_data(tensor, location=location)
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    (folder / "bad.onnx").write_bytes(model.SerializeToString())


def external_data_missing(folder: Path) -> None:
    _external(folder, "weights.bin")
    (folder / "weights.bin").unlink()


def external_data_outside(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    _external(inner, "../weights.bin")
    (inner / "weights.bin").rename(folder / "weights.bin")
    (inner / "bad.onnx").rename(inner / "moved.onnx")


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "not there": (not_there, "there is no such file"),
    "a folder": (a_folder, "not a file"),
    "truncated": (truncated, "bad.onnx"),
    "no protobuf": (no_protobuf, "bad.onnx"),
    "checker failure": (checker_failure, "nobody_makes_this"),
    "external data missing": (external_data_missing, "weights.bin"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_read_is_refused(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, told = MODELS[case]
    prepare(folder)
    assert told in said(folder, command(folder, model="bad.onnx"), capsys)


def test_external_data_outside_of_the_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    external_data_outside(folder)
    assert "weights.bin" in said(folder, command(folder, model="inner/moved.onnx"), capsys)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def _nan() -> np.ndarray:
    inputs = tiny_inputs()
    inputs[3, 1, 2, 2] = np.nan
    return inputs


ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "wrong name": ({"image": tiny_inputs(), "other": tiny_inputs()}, "image"),
    "wrong rank": ({"x": tiny_inputs()[:, 0]}, "(32, 8, 8)"),
    "wrong size": ({"x": tiny_inputs()[:, :2]}, "(32, 2, 8, 8)"),
    "wrong dtype": ({"x": tiny_inputs().astype(np.float64)}, "float64"),
    "bytes without mean": ({"x": np.zeros((32, 3, 8, 8), np.uint8)}, "--mean"),
    "NaN": ({"x": _nan()}, "holds nan at [3, 1, 2, 2]"),
    "no samples": ({"x": tiny_inputs()[:0]}, "x"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_calibration_arrays_that_do_not_fit_are_refused(
    folder: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, told = ARRAYS[case]
    np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]
    assert told in said(folder, command(folder, calib="bad.npz"), capsys)


def test_a_pickle_inside_npy_is_never_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    np.save(folder / "bad.npy", np.array([Evil()], object), allow_pickle=True)
    assert "pickle" in said(folder, command(folder, calib="bad.npy"), capsys)
    assert not (folder / "unpickled").exists()


OPTIONS: dict[str, Case] = {
    "method": (["--method", "laso"], "did you mean lasso"),
    "option": (["--methd", "lasso"], "--method"),
    "budget of 0": (["--macs", "0"], "--macs should be greater than 0"),
    "budget above 1": (["--macs", "1.5"], "--macs should be less than or equal to 1"),
    "parameters above 1": (["--params", "50"], "--params should be less than or equal to 1"),
    "speedup below 1": (["--speedup", "0.5"], "--speedup should be greater than or equal to 1"),
    "ratio of 1": (["--ratio", "1"], "--ratio should be less than 1"),
    "no number": (["--macs", "half"], "--macs should be a valid number"),
    "not a number": (["--macs", "nan"], "--macs should be"),
    "two budgets": (["--macs", "0.5", "--params", "0.5"], "give one budget, not --macs and --params"),
    "choice": (["--rebuild", "full"], "'lsq', 'scale' or 'none'"),
    "align": (["--align", "0"], "auto or a whole number"),
    "keep": (["--keep", "nothing*"], "--keep 'nothing*' matches no node or tensor"),
    "only": (["--only", "nothing*"], "--only 'nothing*' matches no node or tensor"),
    "keep everything": (["--keep", "*"], "--keep names it"),
    "input shape": (["--input-shape", "1,3,8,8"], "name=1,3,224,224"),
    "input shape of no input": (["--input-shape", "z=1,3,8,8"], "z"),
    "max drop of nothing": (["--max-drop", "0.1"], "--max-drop needs --eval"),
    "metric": (["--metric", "no_such_module:f"], "no_such_module"),
    "eval": (["--eval", "no_such.npz"], "no_such.npz"),
    "config file": (["--config", "no_such.yaml"], "no_such.yaml"),
    "ratios file": (["--ratios", "no_such.yaml"], "no_such.yaml"),
    "extra argument": (["another.onnx"], "another.onnx"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_that_is_wrong_is_refused(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    more, told = OPTIONS[case]
    assert told in said(folder, command(folder, *more), capsys)


def test_a_ratio_for_nothing_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rates.yaml").write_text("nothing*: 0.5\n")
    told = "--ratios 'nothing*' matches no node or tensor"
    assert told in said(folder, command(folder, "--ratios", str(folder / "rates.yaml")), capsys)


def test_a_budget_out_of_reach_has_its_own_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be reached" in said(folder, command(folder, "--macs", "0.0001"), capsys, code=3)


def test_an_accuracy_bound_that_is_not_met_has_its_own_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "worse.py").write_text("calls = []\ndef f(session):\n    calls.append(1)\n    return -len(calls)\n")
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode, old = True, sys.dont_write_bytecode
    try:
        more = ("--metric", "worse:f", "--max-drop", "0.5")
        assert "drops from -1.0000 to -2.0000" in said(folder, command(folder, *more), capsys, code=3)
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = old


def test_no_output_at_all_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dry-run" in said(folder, [str(folder / "in.onnx")], capsys)


def test_the_input_is_not_replaced_unless_that_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link.onnx").symlink_to(folder / "in.onnx")
    for name in ("in.onnx", "link.onnx"):
        arguments = [str(folder / "in.onnx"), "-o", str(folder / name), *FAST]
        assert "is the input itself; --overwrite allows it" in said(folder, arguments, capsys)
    assert "--plan" in said(folder, command(folder, "--plan", str(folder / "in.onnx"), "--overwrite"), capsys)
    assert "is also an input of this run" in said(folder, command(folder, "--plan", str(folder / "calib.npz")), capsys)


def test_two_outputs_of_one_name_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--report and --plan name the same" in said(
        folder, command(folder, "--plan", str(folder / "report.json")), capsys
    )


@pytest.mark.parametrize("option", ["-o", "--plan", "--report", "--save-config"])
def test_a_path_that_cannot_be_written_is_found_before_the_work(
    folder: Path, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.pipeline.compress", lambda *_, **__: pytest.fail("the work was started"))
    below_a_file = str(folder / "calib.npz" / "out")
    assert "cannot write" in said(folder, command(folder, option, below_a_file), capsys)
    assert "the folder does not exist" in said(folder, command(folder, option, str(folder / "nowhere" / "out")), capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert "no write permission" in said(folder, command(folder, "-o", str(folder / "locked" / "out.onnx")), capsys)


def test_a_disk_that_fills_up_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "report.json").write_text("the old report")
    for failing in (1, 2, 3):
        calls: list[int] = []

        def full(descriptor: int, calls: list[int] = calls, failing: int = failing) -> None:
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("onnxprune.atomic.os.fsync", full)
            arguments = command(folder, "--plan", str(folder / "plan.json"))
            assert "the disk is full" in said(folder, arguments, capsys)
        assert len(calls) == failing


def test_a_disk_that_fills_up_while_data_are_spooled_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnxprune.pipeline.compress", full)
    assert "the disk is full" in said(folder, command(folder), capsys)
