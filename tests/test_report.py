"""The report of a real run adds up, survives JSON, and its schema is versioned."""

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model
from pydantic import ValidationError

from onnxprune.pipeline import Result, compress
from onnxprune.report import Report


@pytest.fixture(scope="module")
def result() -> Result:
    return compress(tiny_model(), calib=tiny_inputs(), align=1, samples=16, macs=0.6)


def test_groups_and_plan_agree(result: Result) -> None:
    planned = {group.name: group for group in result.plan.groups}
    for group in result.report.groups:
        if group.kept < group.width:
            assert len(planned[group.name].kept) == group.kept
            assert (group.method, group.reason) == ("obs", "")
            assert group.error is not None and group.error >= 0
        else:
            assert (group.method, group.reason != "") == ("", True)


def test_totals_are_those_of_the_model(result: Result) -> None:
    arrays = [onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer]
    assert result.report.after.params == sum(a.size for a in arrays)
    assert result.report.after.bytes == sum(a.nbytes for a in arrays)
    assert result.report.budget.reached == pytest.approx(result.report.after.macs / result.report.before.macs)
    assert result.report.budget.reached <= result.report.budget.target == 0.6


def test_figures_are_there_and_sane(result: Result) -> None:
    report = result.report
    assert 0 <= report.proof < 1e-5
    assert report.fidelity is not None and np.isfinite(report.fidelity.relative_error)
    (latency,) = report.latency
    assert latency.batch == 1
    assert latency.speedup_p10 <= latency.speedup <= latency.speedup_p90
    assert {"analyse", "collect", "rebuild", "verify"} <= set(report.seconds)
    assert report.allocation.endswith("(the default)")
    assert report.notes == ()


def test_json_holds_all_of_it(result: Result) -> None:
    text = result.report.model_dump_json()
    assert Report.model_validate_json(text) == result.report
    assert '"schema_version":1' in text
    with pytest.raises(ValidationError):
        Report.model_validate_json(text.replace('"schema_version":1', '"schema_version":2'))
