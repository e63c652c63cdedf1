"""Runs in which layers become products: budgets are met with widths and ranks together, and what is told is so."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, model_from_text
from model_counts import constants, macs, params
from pipeline_case import prune, resnet

from onnxprune import apply_plan
from onnxprune.cli import run as command
from onnxprune.errors import BadInput
from onnxprune.pipeline import Result

BODY = """
c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, c_w, c_b)
r = Relu (c)
f = Flatten (r)
h = Gemm <transB = 1> (f, h_w, h_b)
s = Relu (h)
g = MatMul (s, g_w)
t = Tanh (g)
y = Gemm (t, y_w, y_b)
"""


def low(outputs: int, features: int, rank: int, seed: int) -> np.ndarray:
    """A weight whose singular values fall off after `rank`."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (outputs, features))
    sigma = np.where(np.arange(min(outputs, features)) < rank, 1.0, 0.02)
    return (2 * (left[:, : len(sigma)] * sigma) @ right[: len(sigma)]).astype(np.float32)


WEIGHTS: Weights = {
    "c_w": (6, 3, 3, 3),
    "c_b": (6,),
    "h_w": low(48, 96, 6, 1),
    "h_b": (48,),
    "g_w": low(48, 40, 5, 2),
    "y_w": (40, 5),
    "y_b": (5,),
}


def dense() -> onnx.ModelProto:
    """A convolution and three fully connected layers, of which two are nearly of low rank; float[N, 3, 8, 8] x."""
    return model_from_text("(float[N, 3, 8, 8] x) => (float[N, 5] y)", BODY, WEIGHTS)


def images(count: int = 400, seed: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).cumsum(-1).cumsum(-2)
    return (noise / noise.std()).astype(np.float32)


def made(**options: Any) -> Result:
    return prune(dense(), images(), **{"samples": 384, "align": 1} | options)


def error(result: Result, model: onnx.ModelProto | None = None) -> float:
    """The outputs' squared error over their variance, on other inputs."""
    inputs = {"x": images(256, seed=9)}
    wanted, found = (run(one, inputs)["y"] for one in (model or dense(), result.model))
    return float(np.mean((wanted - found) ** 2) / np.var(wanted))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("method", ["lrd", "response", "as"])
def test_ranks_alone_change_the_named_layers_and_nothing_else(method: str) -> None:
    result = made(method="none", fc=method, rank=8, only=("h_w", "g_w"))
    before, after = constants(dense()), constants(result.model)
    nodes = "Conv Relu Flatten Gemm Gemm Relu MatMul MatMul Add Tanh Gemm"
    assert operators(result.model) == nodes.split()
    assert after["h_w.first"].shape == (8, 96) and after["h_w.second"].shape == (48, 8)
    assert after["g_w.first"].shape == (48, 8) and after["g_w.second"].shape == (8, 40)
    for name in ("c_w", "c_b", "y_w", "y_b"):
        assert np.array_equal(before[name], after[name]), name
    assert error(result) < 0.02
    assert result.report.after.params == params(result.model)
    assert [(one.name, one.rank, one.method) for one in result.report.products] == [
        ("Gemm:h", 8, method),
        ("MatMul:g", 8, method),
    ]


def test_solved_products_are_nearer_than_singular_values() -> None:
    errors = {method: error(made(method="none", fc=method, rank=3)) for method in ("lrd", "response", "as")}
    assert errors["response"] < 0.8 * errors["lrd"]
    assert errors["as"] < 1.02 * errors["response"]


def test_a_product_that_saves_nothing_is_not_made() -> None:
    result = made(method="none", fc="response", rank=20)
    assert [one.name for one in result.report.products] == ["Gemm:h", "MatMul:g"]  # y is 40 × 5: less than 20 (40 + 5)
    with pytest.raises(BadInput, match="no layer can become a smaller product: --rank is too large"):
        made(method="none", fc="response", rank=40)


def test_energy_takes_the_least_rank_that_keeps_it() -> None:
    result = made(method="none", fc="response", energy=0.99, only=("h_w", "g_w"))
    assert {one.name: one.rank for one in result.report.products}["Gemm:h"] <= 8
    more = made(method="none", fc="response", energy=0.9999, only=("h_w", "g_w"))
    ranks = [{one.name: one.rank for one in each.report.products} for each in (result, more)]
    assert ranks[0]["Gemm:h"] < ranks[1].get("Gemm:h", 33)


@pytest.mark.parametrize(("budget", "count"), [("params", params), ("macs", macs)])
def test_widths_and_ranks_meet_a_budget_together(budget: str, count: Any) -> None:
    result = made(method="obs", fc="response", **{budget: 0.3})
    assert count(result.model) <= 0.3 * count(dense())
    assert getattr(result.report.after, budget) == pytest.approx(count(result.model), rel=1e-3)


def test_ranks_are_taken_where_they_cost_less_than_widths() -> None:
    result, alone = made(method="obs", fc="response", params=0.3), made(method="obs", params=0.3)
    assert {"Gemm:h", "MatMul:g"} <= {one.name for one in result.report.products}
    assert error(result) < 0.5 * error(alone)


def test_the_allocator_prunes_where_weights_have_no_low_rank() -> None:
    result = prune(resnet(), None, samples=64, method="obs", fc="response", macs=0.5)
    assert not result.report.products
    assert macs(result.model) <= 0.5 * macs(resnet())


def test_layers_that_are_not_dense_need_conv() -> None:
    with pytest.raises(BadInput, match="no layer can become a smaller product"):
        made(method="none", fc="response", rank=2, only=("c_w",))


def test_convolutions_become_two() -> None:
    result = prune(resnet(), None, samples=64, method="none", conv="channel", params=0.7)
    assert params(result.model) <= 0.7 * params(resnet())
    assert all(one.rank < one.outputs for one in result.report.products)
    convolutions = [operators(model).count("Conv") for model in (resnet(), result.model)]
    assert convolutions[1] == convolutions[0] + len(result.report.products)


def test_a_plan_repeats_the_products() -> None:
    first = made(method="obs", fc="as", params=0.3)
    options = first.report.config
    again = apply_plan(dense(), first.plan, calib=images(), config=options)
    inputs = {"x": images(64, seed=9)}
    assert max_relative_difference(run(again.model, inputs), run(first.model, inputs)) < 1e-4
    blind = apply_plan(dense(), first.plan)
    shapes = ({name: array.shape for name, array in constants(one.model).items()} for one in (first, blind))
    kept, cut = shapes
    assert cut.items() <= kept.items() | {("g_w.first", cut["g_w.first"])}
    assert error(blind) > error(first)


def test_a_fine_tune_trains_the_factors() -> None:
    pytest.importorskip("torch")
    start = made(method="none", fc="lrd", rank=3)
    tuned = made(method="none", fc="lrd", rank=3, finetune=3, lr=0.003)
    assert error(tuned) < 0.8 * error(start)
    before, after = constants(start.model), constants(tuned.model)
    assert not np.array_equal(before["h_w.first"], after["h_w.first"])


def test_the_command_tells_of_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(dense(), tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", x=images())
    given = [str(tmp_path / "in.onnx"), "--calib", str(tmp_path / "calib.npz"), "-o", str(tmp_path / "out.onnx")]
    assert command([*given, "--method", "none", "--fc", "as", "--rank", "4", "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "Gemm:h" in out and "rank" in out
    assert "ranks as asked for" in out


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(BadInput, match=r"--method none removes nothing.*give --fc or --conv"):
        made(method="none")


def test_methods_that_choose_widths_by_themselves_are_refused() -> None:
    with pytest.raises(BadInput, match="--method l0 sets widths itself"):
        made(method="l0", fc="response", params=0.5)
