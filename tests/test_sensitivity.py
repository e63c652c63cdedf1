"""Curves of single layers against the same done by hand: weights replaced, masks and refits in numpy, the model run."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model, write_case
from dense_mask import run
from graph_text import Weights, model_from_text
from sweep_case import ridge

import onnxprune
from onnxprune import BadInput, Sensitivity, compress, picture, sensitivity
from onnxprune.calibration.sampling import held_out
from onnxprune.cli import run as command
from onnxprune.config import make_config
from onnxprune.criteria.curve import CURVE_RIDGE
from onnxprune.model_io import load
from onnxprune.prepare import open_data
from onnxprune.report import Curve, Point

BODY = """
h = Gemm <transB=1> (x, a_w, a_b) r = Relu (h)
z = Gemm <transB=1> (r, b_w, b_b) t = Relu (z)
y = Gemm <transB=1> (t, c_w, c_b)
"""
WEIGHTS: Weights = {"a_w": (64, 20), "a_b": (64,), "b_w": (48, 64), "b_b": (48,), "c_w": (6, 48), "c_b": (6,)}
OPTIONS: dict[str, Any] = {"samples": 192, "align": 1}


def perceptron() -> onnx.ModelProto:
    return model_from_text("(float[N,20] x) => (float[N,6] y)", BODY, WEIGHTS)


def inputs(count: int = 208) -> np.ndarray:
    rng = np.random.default_rng(7)
    return (rng.standard_normal((count, 20)) @ rng.standard_normal((20, 20)) / 3).astype(np.float32)


def batches() -> tuple[list[np.ndarray], np.ndarray]:
    """(the inputs to solve on, batch by batch; those laid aside)."""
    data = open_data(load(perceptron()).model, inputs(), make_config(**OPTIONS))
    return [feeds["x"] for feeds in data.source.batches()], next(iter(data.apart.batches()))["x"]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def replaced(**arrays: np.ndarray) -> onnx.ModelProto:
    model = perceptron()
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return model


def lost(model: onnx.ModelProto) -> float:
    """What the outputs lose on the inputs laid aside: squared error but for a shift of all scores, over variance."""
    _, x = batches()
    wanted, found = (run(m, {"x": x})["y"].astype(np.float64) for m in (perceptron(), model))
    difference = found - wanted
    return float(((difference - difference.mean(1, keepdims=True)) ** 2).mean() / wanted.var())


def rows(value: str) -> tuple[np.ndarray, np.ndarray]:
    """A value on the inputs to solve on: the rows that solve, and those of each batch that judge."""
    solve, judge = [], []
    for number, x in enumerate(batches()[0]):
        seen = (x if value == "x" else run(perceptron(), {"x": x}, [value])[value]).astype(np.float64)
        held = held_out(len(seen), number)
        solve.append(seen[: held.start])
        judge.append(seen[held])
    return np.concatenate(solve), np.concatenate(judge)


def curves(**options: Any) -> dict[str, Curve]:
    found = sensitivity(perceptron(), calib=inputs(), **{"points": 4} | OPTIONS | options)
    assert found.held_out and found.samples == 16
    return {curve.name: curve for curve in found.curves}


@pytest.fixture(scope="module")
def by_values() -> dict[str, Curve]:
    return curves(method="none", fc="lrd")


@pytest.mark.parametrize(("name", "weight", "bias", "read"), [
    ("Gemm:h", "a_w", "a_b", "x"), ("Gemm:z", "b_w", "b_b", "r"), ("Gemm:y", "c_w", "c_b", "t"),
])  # fmt: skip
def test_a_layer_by_singular_values_costs_what_its_truncated_svd_costs(
    by_values: dict[str, Curve], name: str, weight: str, bias: str, read: str
) -> None:
    whole = constants(perceptron())[weight]
    left, sigma, right = np.linalg.svd(whole, full_matrices=False)
    curve, least = by_values[name], -(-whole.size // sum(whole.shape))
    assert curve.kind == "rank" and curve.method == "lrd" and curve.whole == min(whole.shape)
    assert curve.points[0].left == 1 and curve.points[-1].left == least - 1
    _, judge = rows(read)
    for point in curve.points:
        product = (left[:, : point.left] * sigma[: point.left]) @ right[: point.left]
        assert point.output_error == pytest.approx(lost(replaced(**{weight: product})), rel=1e-3)
        own = np.sum((judge @ (whole - product).T) ** 2) / np.sum(((judge - judge.mean(0)) @ whole.T) ** 2)
        assert point.own_error == pytest.approx(own, rel=1e-3)
        assert point.rate == pytest.approx(point.left * sum(whole.shape) / whole.size)
        saved = whole.size - point.left * sum(whole.shape)
        sizes = {n: a.size for n, a in constants(perceptron()).items()}
        assert point.params == pytest.approx(1 - saved / sum(sizes.values()))
        assert point.macs == pytest.approx(1 - saved / sum(s for n, s in sizes.items() if n.endswith("w")))


def test_a_layer_by_responses_costs_what_dense_reduced_rank_regression_costs() -> None:
    curve, whole = curves(method="none", fc="response")["Gemm:z"], constants(perceptron())
    solve, _ = rows("r")
    centred = solve - solve.mean(0)
    _, _, right = np.linalg.svd(centred @ whole["b_w"].T, full_matrices=False)
    for point in curve.points:
        basis = right[: point.left]
        product = basis.T @ basis @ whole["b_w"]
        shift = whole["b_b"] + (whole["b_w"] - product) @ solve.mean(0)
        assert point.output_error == pytest.approx(lost(replaced(b_w=product, b_b=shift)), rel=5e-3)


@pytest.mark.parametrize(("options", "name"), [
    ({"fc": "as"}, "Gemm:z"), ({"fc": "response"}, "Gemm:z"), ({"fc": "lrd"}, "Gemm:h")
])  # fmt: skip
def test_a_point_is_what_a_run_on_that_layer_alone_leaves(options: dict[str, Any], name: str) -> None:
    alone = {"method": "none", "only": (name,), **options}
    (point,) = curves(rank=6, **alone)[name].points
    slim = compress(perceptron(), calib=inputs(), **OPTIONS, **alone, rank=6, rebuild="none", measure=False).model
    assert point.left == 6
    assert point.output_error == pytest.approx(lost(slim), rel=0.05)


def test_a_group_costs_what_masks_and_a_refit_of_its_reader_cost() -> None:
    curve, whole = curves(method="magnitude")["Gemm:h"], constants(perceptron())
    order = np.argsort(np.abs(whole["a_w"]).sum(1))
    solve, judge = rows("r")
    target = solve @ whole["b_w"].T
    assert curve.kind == "channels" and curve.whole == 64 and [p.left for p in curve.points] == [1, 4, 16, 63]
    for point in curve.points:
        kept = np.sort(order[64 - point.left :])
        scale = solve.var(0).mean() / solve[:, kept].var(0).mean()
        fitted, _ = ridge(solve[:, kept], target, whole["b_w"][:, kept], CURVE_RIDGE * scale)
        masked = np.zeros_like(whole["b_w"])
        masked[:, kept] = fitted
        shift = (target - solve @ masked.T).mean(0)
        model = replaced(b_w=masked, b_b=whole["b_b"] + shift)
        assert point.output_error == pytest.approx(lost(model), rel=5e-3)
        missing = (judge - solve.mean(0)) @ (whole["b_w"] - masked).T
        varies = np.sum(((judge - judge.mean(0)) @ whole["b_w"].T) ** 2)
        assert point.own_error == pytest.approx(np.sum(missing**2) / varies, rel=5e-3)
        assert point.rate == pytest.approx(point.left / 64)


@pytest.mark.parametrize(("method", "left"), [("pq", [8, 4, 2, 1]), ("bin", [8])])
def test_codes_are_points_of_a_curve_too(method: str, left: list[int]) -> None:
    wide = {"a_w": (256, 20), "a_b": (256,), "b_w": (96, 256), "b_b": (96,), "c_w": (6, 96), "c_b": (6,)}
    model = model_from_text("(float[N,20] x) => (float[N,6] y)", BODY, wide)
    found = sensitivity(model, calib=inputs(), method="none", fc=method, only=("Gemm:z",), **OPTIONS)
    (curve,) = found.curves
    assert (curve.kind, curve.whole, [point.left for point in curve.points]) == ("codes", 0, left)
    point = curve.points[0]
    assert point.rate == (96 * 256 / 8 + 256 * 8 * 4) / (96 * 256 * 4) and point.macs == 1
    errors = [point.output_error for point in curve.points]
    assert all(finer < coarser for coarser, finer in pairwise(errors))


def test_convolutions_and_groups_come_in_the_order_of_the_layers() -> None:
    found = sensitivity(tiny_model(), calib=tiny_inputs(), conv="channel", align=1, points=3)
    assert [(c.kind, c.name) for c in found.curves] == [
        ("channels", "Conv:h0"), ("channels", "Conv:h1"), ("rank", "Conv:h0"), ("rank", "Conv:h1")
    ]  # fmt: skip
    for curve in found.curves:
        errors = [point.own_error for point in curve.points]
        assert len(errors) == 3 and all(more < less for less, more in pairwise(errors))


def test_the_report_is_read_back_as_it_was_and_the_picture_has_a_line_a_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, calib = write_case(tmp_path)
    before, svg, report = model.read_bytes(), tmp_path / "curves.svg", tmp_path / "curves.json"
    arguments = ["sensitivity", str(model), "--calib", str(calib), "--conv", "channel", "--align", "1", "--points", "3"]
    assert command([*arguments, "-o", str(svg), "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "channels, obs" in out and "rank, channel" in out and "held-out inputs" in out
    found = Sensitivity.model_validate_json(report.read_text())
    assert Sensitivity.model_validate_json(found.model_dump_json()) == found
    groups = [e for e in ET.parse(svg).iter() if e.get("id") in {f"{c.kind}:{c.name}" for c in found.curves}]
    assert len(groups) == len(found.curves) == 4
    for group, curve in zip(groups, found.curves, strict=True):
        line = next(e for e in group.iter() if e.tag.endswith("path"))
        assert len(line.get("d", "").replace("L", "M").split("M")) - 1 == len(curve.points)
    assert picture.draw(found, "svg") == svg.read_bytes()
    assert model.read_bytes() == before


@pytest.mark.filterwarnings("error::UserWarning")
def test_errors_of_nothing_are_drawn_all_the_same() -> None:
    found = sensitivity(tiny_model(), calib=tiny_inputs(), points=1)
    point = Point(left=1, rate=0.5, macs=0.5, params=0.5, own_error=0.0, output_error=0.0)
    still = found.model_copy(update={"curves": (found.curves[0].model_copy(update={"points": (point,)}),)})
    (curve,) = still.curves
    drawn = ET.fromstring(picture.draw(still, "svg"))
    (group,) = [e for e in drawn.iter() if e.get("id") == f"{curve.kind}:{curve.name}"]
    marks = [e for e in group.iter() if e.tag.endswith("use")]
    assert len(marks) == 1 and all(np.isfinite(float(marks[0].get(axis, "nan"))) for axis in "xy")


@pytest.mark.parametrize(("options", "told"), [
    ({"fc": "ger"}, "trains all layers together"),
    ({"method": "none"}, "no layer can become a product"),
    ({"points": 0}, "needs points"),
    ({"method": "none", "fc": "lrd", "rank": 500}, "no group can lose channels"),
])  # fmt: skip
def test_what_gives_no_curve_is_an_error_that_says_why(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        onnxprune.sensitivity(perceptron(), calib=inputs(), **options)


def test_the_command_refuses_before_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calib = write_case(tmp_path)
    arguments = ["sensitivity", str(model), "--calib", str(calib)]
    assert command([*arguments, "-o", str(tmp_path / "curves.jpg")]) == 2
    assert "should end in .svg, .png, .pdf" in capsys.readouterr().err
    assert command([*arguments, "--report", str(model)]) == 2
    assert "--report" in capsys.readouterr().err
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    assert command([*arguments, "-o", str(tmp_path / "curves.svg")]) == 2
    assert "pip install 'onnxprune[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "curves.svg").exists()
