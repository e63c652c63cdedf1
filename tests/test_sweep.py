"""A sweep: each job gives what a run by itself gives, nothing is done twice, and what fails is a row."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs
from model_counts import constants
from sweep_runs import QUICK, labelled, model, swept, watch

from onnxprune import cutting
from onnxprune.cli import run as command
from onnxprune.config import Config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.pipeline import compress
from onnxprune.sweeping import run
from onnxprune.sweeping.digest import held, key_of, of_data, of_model
from onnxprune.sweeping.jobs import make_jobs


def weights(path: Path) -> dict[str, np.ndarray]:
    return constants(onnx.load(path))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_gives_the_bits_that_a_run_by_itself_gives(tmp_path: Path, jobs: int) -> None:
    methods = "obs,obs+fc=as,thinet+forward,lasso+rebuild=scale,random+rebuild=none"
    found = swept(tmp_path, methods=methods, jobs=jobs, by="params")
    assert [row.method for row in found.rows[::2]] == methods.split(",")
    cells = {(job.label, job.budget): job.config for job in make_jobs(methods, "0.8,0.5", "params", QUICK)}
    for row in found.rows:
        alone = compress(model(), calib=tiny_inputs(), config=cells[row.method, row.budget])
        assert (row.macs, row.params) == (alone.report.after.macs, alone.report.after.params)
        written, expected = weights(tmp_path / row.file), constants(alone.model)
        assert written.keys() == expected.keys()
        assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_all_jobs_share_one_sweep_over_the_data_and_each_method_is_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept_data, scored = watch(monkeypatch, cutting, "collect"), watch(monkeypatch, cutting, "score")
    swept(tmp_path, methods="obs,lasso,none+fc=as,nisp", budgets="0.9,0.7,0.5")
    assert (len(swept_data), len(scored)) == (1, 4)


def test_two_jobs_at_a_time_share_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept_data, scored = watch(monkeypatch, cutting, "collect"), watch(monkeypatch, cutting, "score")
    found = swept(tmp_path, methods="obs,obs+fc=as", budgets="0.9,0.7,0.5", jobs=2)
    assert (len(swept_data), len(scored)) == (1, 2)
    assert [row.failed for row in found.rows] == [""] * 6


def test_a_rerun_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = swept(tmp_path)
    ran = watch(monkeypatch, run, "compress")
    assert swept(tmp_path) == first
    assert ran == []
    (tmp_path / first.rows[1].file).unlink()
    again = swept(tmp_path, budgets="0.8,0.5,0.6")
    assert sorted((c.method, c.macs) for c in ran) == [("magnitude", 0.6), ("obs", 0.5), ("obs", 0.6), ("obs", 0.6)]
    assert (tmp_path / again.rows[1].file).exists()
    kept = {row.key: row.model_copy(update={"front": (), "seconds": None}) for row in again.rows}  # of the whole grid
    assert [kept[row.key] for row in first.rows] == [
        row.model_copy(update={"front": (), "seconds": None}) for row in first.rows
    ]


def test_the_address_of_a_job_is_all_that_it_depends_on() -> None:
    config, inputs = Config(macs=0.5), {"model": "m", "calib": "c"}
    key = key_of(config, inputs)
    assert key == key_of(Config(macs=0.5, threads=1, measure=False, lr=0.1), inputs)  # no fine-tune, no rate
    others = [
        key_of(Config(macs=0.4), inputs),
        key_of(Config(macs=0.5, seed=1), inputs),
        key_of(Config(macs=0.5, finetune=1), inputs),
        key_of(Config(macs=0.5, finetune=1, lr=0.1), inputs),
        key_of(config, {**inputs, "model": "n"}),
        key_of(config, {**inputs, "calib": "d"}),
    ]
    assert len({key, *others}) == 7


def test_the_version_is_part_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(Config(), {})
    monkeypatch.setattr("onnxprune.sweeping.digest.__version__", "99")
    assert key_of(Config(), {}) != before


def test_data_have_the_address_of_their_content(tmp_path: Path) -> None:
    x, same, other = tiny_inputs(8), tiny_inputs(8), tiny_inputs(8) + 1
    assert of_data(x) == of_data(same) != of_data(other)
    assert of_data({"x": x}) == of_data({"x": same}) != of_data({"x": other})
    assert of_data([{"x": x}]) != of_data([{"x": x}, {"x": x}])
    for name, array in (("a", x), ("b", same), ("c", other)):
        np.save(tmp_path / f"{name}.npy", array)
    a, b, c = (of_data(str(tmp_path / f"{name}.npy")) for name in "abc")
    assert a == b != c
    assert of_data(None) != of_data("distilled") == "distilled"


def test_a_stream_of_feeds_is_read_once_and_kept() -> None:
    feeds = [{"x": tiny_inputs(4)}, {"x": tiny_inputs(8)[4:]}]

    class Reader:
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    class Stream:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return iter(feeds)

    addresses = {of_data(held(one)) for one in (feeds, (f for f in feeds), Reader(), Stream())}
    assert len(addresses) == 1


def test_a_model_has_the_address_of_its_content_wherever_its_numbers_lie(tmp_path: Path) -> None:
    from onnxprune.model_io import load

    plain = of_model(load(model()).model)
    onnx.save(model(), tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=16)
    assert of_model(load(tmp_path / "out.onnx").model) == plain
    other = model()
    weight = next(t for t in other.graph.initializer if t.name == "f1_w")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.001, "f1_w"))
    assert of_model(load(other).model) != plain


def test_a_budget_that_cannot_be_met_is_a_row_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = swept(tmp_path, budgets="0.5,0.001")
    assert [bool(row.failed) for row in found.rows] == [False, True] * 3
    assert "cannot be reached" in found.rows[1].failed
    assert found.exit_code == 3
    ran = watch(monkeypatch, run, "compress")
    assert swept(tmp_path, budgets="0.5,0.001") == found  # that it cannot be met is known now
    assert ran == []


def test_a_defect_in_one_job_is_a_row_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.compress

    def broken(*arguments: Any, **options: Any) -> Any:
        if options["config"].method == "magnitude":
            raise ZeroDivisionError("of no use")
        return whole(*arguments, **options)

    monkeypatch.setattr(run, "compress", broken)
    found = swept(tmp_path)
    assert [bool(row.failed) for row in found.rows] == [False, False, True, True, False, False]
    assert "ZeroDivisionError: of no use" in found.rows[2].failed
    assert found.exit_code == 1
    monkeypatch.setattr(run, "compress", whole)
    assert swept(tmp_path).exit_code == 0


def test_where_every_job_fails_the_first_reason_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(BudgetNotMet, match=r"no job of the sweep came to its end.*cannot be reached"):
        swept(tmp_path, budgets="0.001")


def test_models_can_be_deleted_and_a_rerun_does_not_want_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = swept(tmp_path, models=False, measure=True)
    assert list((tmp_path / "models").iterdir()) == []
    assert all(row.file == "" and row.latency_share is not None for row in found.rows)
    ran = watch(monkeypatch, run, "compress")
    assert swept(tmp_path, models=False, measure=True) == found
    assert ran == []


def test_all_models_are_timed_in_one_run_when_the_jobs_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune import measure
    from onnxprune.sweeping import timing

    alone, together = watch(monkeypatch, measure, "bench"), watch(monkeypatch, timing, "bench")
    found = swept(tmp_path, measure=True)
    assert (len(alone), len(together)) == (0, 1)
    assert all(row.speedup_p10 <= row.speedup <= row.speedup_p90 for row in found.rows)  # type: ignore[operator]
    swept(tmp_path, measure=True)
    assert len(together) == 1
    swept(tmp_path, measure=True, threads=1)  # another question
    assert len(together) == 2


def test_methods_have_options_of_their_own() -> None:
    jobs = make_jobs("obs, none+fc=ger+rank=8,thinet+forward,lasso+fisher-cost=macs", "0.7,0.5", "params", {"seed": 3})
    assert [(job.label, job.config.params, job.config.seed) for job in jobs[:3]] == [
        ("obs", 0.7, 3),
        ("obs", 0.5, 3),
        ("none+fc=ger+rank=8", 0.7, 3),
    ]
    third = jobs[2].config
    assert (third.method, third.fc, third.rank, third.macs) == ("none", "ger", 8, None)
    assert (jobs[4].config.forward, jobs[6].config.fisher_cost) == (True, "macs")
    named = make_jobs({"mine": {"method": "obs", "rebuild": "none"}}, [0.5], "macs", {})
    assert (named[0].label, named[0].config.rebuild) == ("mine", "none")


@pytest.mark.parametrize(
    ("methods", "budgets", "by", "said"),
    [
        ("obs,obx", "0.5", "macs", "method 'obx' of the sweep: .*did you mean"),
        ("obs+fcc=as", "0.5", "macs", "method 'obs.fcc=as' of the sweep: there is no option 'fcc'"),
        ("obs+macs=0.5", "0.5", "macs", "cannot have --macs of its own"),
        ("obs", "half", "macs", "--budgets 'half' should be numbers"),
        ("obs", "1.5", "macs", "method 'obs' of the sweep: --macs"),
        ("obs", "", "macs", "--budgets '' should be numbers"),
        ("", "0.5", "macs", "--methods names none"),
        ("obs", "0.5", "seconds", "--by seconds: budgets are of macs, params"),
    ],
)
def test_a_wrong_grid_is_told_before_any_work(methods: str, budgets: str, by: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_jobs(methods, budgets, by, {})


def test_without_matplotlib_one_sentence_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.sweeping.figures.find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"pip install 'onnxprune\[sweep\]'"):
        swept(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_tables_page_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", x=tiny_inputs())
    base = ["sweep", str(tmp_path / "in.onnx"), "--calib", str(tmp_path / "calib.npz"), "--methods", "obs,magnitude"]
    base += ["--align", "1", "--samples", "16", "--eval", labelled(tmp_path), "--no-measure"]
    base += ["-o", str(tmp_path / "out")]
    assert command([*base, "--budgets", "0.8,0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out/sweep.json").read_text())
    assert told["original"]["accuracy"] == 0.75
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("index.html", "sweep.csv", "sweep.json", "sweep.svg", "models", "results")
    }
    assert command([*base, "--budgets", "0.8,0.001"]) == 3
    shown = capsys.readouterr().out
    assert "obs at 0.001: the budget of 0.001" in shown
    assert "index.html" in shown


def test_help_and_bad_options_need_no_numpy(tmp_path: Path) -> None:
    import subprocess

    code = "import sys; from onnxprune.cli import run; run(['sweep', '--help']); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "--budgets" in done.stdout
