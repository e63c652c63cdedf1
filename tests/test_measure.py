"""The judge is opened before the work, and the last stage measures what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cli_case import tiny_inputs, tiny_model
from dense_mask import run

from onnxprune import measure as stage
from onnxprune.config import Config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.measure import Judge, measure, open_judge
from onnxprune.model_io import load
from onnxprune.prepare import Data, open_data


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "BENCH_SECONDS", 0.05)


def model(batch: int | None = None) -> ir.Model:
    proto = tiny_model()
    if batch is not None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return load(proto).model


def data(of: ir.Model, **options: Any) -> Data:
    return open_data(of, tiny_inputs(), Config(**options))


def weaker() -> ir.Model:
    """The classifier's bias prefers one class."""
    proto = tiny_model()
    bias = next(t for t in proto.graph.initializer if t.name == "fc_b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([9, 0, 0, 0], np.float32), "fc_b"))
    return load(proto).model


def labelled(folder: Path) -> Path:
    x = tiny_inputs()
    np.savez(folder / "test.npz", x=x, y=run(tiny_model(), {"x": x})["y"].argmax(1))
    return folder / "test.npz"


def test_a_judge_needs_what_it_goes_by(tmp_path: Path) -> None:
    assert open_judge(model(), None, None, Config()) is None
    for given, told in (
        ((labelled(tmp_path), "math:sqrt", Config()), "not both"),
        ((None, None, Config(max_drop=0.1)), "--max-drop needs --eval"),
        ((None, "no.such:thing", Config()), "cannot be imported"),
        ((tmp_path / "missing.npz", None, Config()), "missing.npz"),
        ((None, None, Config(providers=("NoSuchProvider",))), "NoSuchProvider"),
    ):
        with pytest.raises(BadInput, match=told):
            open_judge(model(), *given)
    assert open_judge(model(), None, None, Config(providers=("NoSuchProvider",), measure=False)) is None


def test_labels_give_the_accuracy(tmp_path: Path) -> None:
    judge = open_judge(model(), labelled(tmp_path), None, Config())
    assert judge is not None
    share = float(np.mean(run(tiny_model(), {"x": tiny_inputs()})["y"].argmax(1) == 0))
    assert (judge.name, judge.value(model()), judge.value(weaker())) == ("top-1 accuracy", 1.0, share)


def test_a_drop_is_judged_against_the_bound(tmp_path: Path) -> None:
    judge = open_judge(model(), labelled(tmp_path), None, Config(max_drop=0.5))
    drop = 1 - judge.value(weaker()) if judge is not None else 0.0
    assert drop > 0
    for bound, fails in ((drop - 1e-6, True), (drop + 1e-6, False)):
        config = Config(max_drop=bound, measure=False)
        if fails:
            with pytest.raises(BudgetNotMet, match=r"drops from 1\.0000 to"):
                measure(model(), weaker(), data(model()), judge, config)
        else:
            told = measure(model(), weaker(), data(model()), judge, config).accuracy
            assert told is not None and told.before - told.after == pytest.approx(drop)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_must_return_a_finite_number(value: float) -> None:
    with pytest.raises(BadInput, match=r"--metric m:f returned .*, which says nothing"):
        Judge("m:f", None, lambda _: value).value(model())


def test_a_metric_that_raises_is_told_by_name() -> None:
    def fail(_: Any) -> float:
        raise KeyError("x")

    with pytest.raises(BadInput, match="--metric m:f failed: KeyError: 'x'"):
        Judge("m:f", None, fail).value(model())


def test_a_metric_gets_a_session_of_the_model() -> None:
    one = {"x": tiny_inputs(1)}
    value = Judge("m:f", None, lambda session: session.run(None, one)[0].sum()).value(model())
    assert value == pytest.approx(float(run(tiny_model(), one)["y"].sum()), rel=1e-5)


def test_nothing_is_measured_unless_asked_for() -> None:
    found = measure(model(), weaker(), data(model()), None, Config(measure=False))
    assert (found.fidelity, found.accuracy, found.latency) == (None, None, ())


@pytest.mark.parametrize(("fixed", "batch"), [(None, 1), (1, 1), (4, 4)])
def test_latency_is_of_one_input_where_the_model_takes_one(fixed: int | None, batch: int) -> None:
    of = model(fixed)
    found = measure(of, of.clone(), data(of), None, Config(threads=1))
    (latency,) = found.latency
    assert (latency.batch, latency.threads) == (batch, 1)
    assert latency.before_ms > 0 and latency.after_ms > 0
    assert latency.speedup_p10 <= latency.speedup <= latency.speedup_p90
    assert found.fidelity is not None and found.fidelity.relative_error == 0.0
