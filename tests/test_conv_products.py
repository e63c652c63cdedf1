"""Convolutions become two in a run: which kind, at which rank, beside which cuts; plan, replay and report."""

from typing import Any

import numpy as np
import onnx
import pytest
from graph_text import Weights, model_from_text
from model_counts import constants
from pipeline_case import error, pictures, prune, resnet

from onnxprune.errors import BadInput
from onnxprune.pipeline import Result
from onnxprune.replay import apply_plan

PLAIN = "pads=[1,1,1,1]"
WINDOWS = {
    "strides and uneven pads": "strides=[2,1], pads=[1,0,2,1]",
    "dilations": "dilations=[2,1], pads=[2,1,2,1]",
    "same": 'auto_pad="SAME_UPPER", strides=[2,2]',
    "same, more at the start": 'auto_pad="SAME_LOWER", strides=[2,2]',
    "valid": 'auto_pad="VALID"',
}


def network(window: str = PLAIN, bias: bool = True, weights: Weights | None = None) -> onnx.ModelProto:
    """Two convolutions of 12 channels behind one of 3, and a classifier."""
    body = f"""a = Conv <{PLAIN}> (x, a_w, a_b) r = Relu (a) b = Conv <{window}> (r, b_w{", b_b" if bias else ""})
    s = Relu (b) g = GlobalAveragePool (s) f = Flatten (g) y = Gemm <transB=1> (f, y_w)"""
    given: Weights = {"a_w": (12, 3, 3, 3), "a_b": (12,), "b_w": (12, 12, 3, 3), "y_w": (6, 12)}
    given = {**given, **({"b_b": (12,)} if bias else {}), **(weights or {})}
    return model_from_text("(float[N,3,12,12] x) => (float[N,6] y)", body, given)


def run(model: onnx.ModelProto, **options: Any) -> Result:
    return prune(model, pictures(48, (3, 12, 12)), **options)


def products(result: Result) -> dict[str, tuple[str, int]]:
    return {one.name: (one.kind, one.rank) for one in result.report.products}


def one_column(rank: int, channels: int = 12) -> np.ndarray:
    """A weight that is exactly `rank` products along the sides of its window."""
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((rank, channels, 3)), rng.standard_normal((12, rank, 3))
    return np.einsum("nrj,rci->ncij", second, first).astype(np.float32) / 6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["channel", "spatial-svd"])
@pytest.mark.parametrize("window", WINDOWS)
def test_any_window_becomes_two_and_is_proved(window: str, kind: str, bias: bool) -> None:
    model = network(WINDOWS[window], bias, {"b_w": one_column(4)} if kind == "spatial-svd" else None)
    result = run(model, method="none", conv=kind, rank=4, only=("*b_w",))
    assert products(result) == {"Conv:b": (kind, 4)}
    assert result.report.proof < 1e-5
    shapes = {name: array.shape for name, array in constants(result.model).items()}
    expected = ((4, 12, 3, 1), (12, 4, 1, 3)) if kind == "spatial-svd" else ((4, 12, 3, 3), (12, 4, 1, 1))
    assert (shapes["b_w.first"], shapes["b_w.second"]) == expected
    if kind == "spatial-svd":  # its weight is such a product: nothing may be lost
        assert error(result.model, model, pictures(16, (3, 12, 12), seed=9)) < 0.02


def test_signals_and_volumes_go_to_fewer_channels_only() -> None:
    for sizes, kernel in (("20", (5,)), ("6,6,6", (3, 3, 3))):
        body = "b = Conv (x, b_w) s = Relu (b) g = GlobalAveragePool (s) f = Flatten (g) y = Gemm <transB=1> (f, y_w)"
        weights: Weights = {"b_w": (12, 8, *kernel), "y_w": (6, 12)}
        model = model_from_text(f"(float[N,8,{sizes}] x) => (float[N,6] y)", body, weights)
        inputs = np.random.default_rng(0).standard_normal((32, 8, *map(int, sizes.split(",")))).astype(np.float32)
        result = prune(model, inputs, method="none", conv="auto", rank=5)
        assert products(result) == {"Conv:b": ("channel", 5)}
        with pytest.raises(BadInput, match="no layer can become a smaller product"):
            prune(model, inputs, method="none", conv="spatial-svd", rank=5)


def test_what_would_save_nothing_is_never_made() -> None:
    for kind, least in (("channel", 11), ("spatial-svd", 18)):  # 12·108 / (12 + 108), and / (36 + 36)
        made = run(network(), method="none", conv=kind, rank=least - 1, only=("*b_w",))
        assert products(made) == {"Conv:b": (kind, least - 1)}
        assert made.report.after.macs < made.report.before.macs
        with pytest.raises(BadInput, match="--rank is too large"):
            run(network(), method="none", conv=kind, rank=least, only=("*b_w",))


def test_the_multiply_adds_of_the_report_are_those_of_the_graph() -> None:
    result = run(network("strides=[1,2], pads=[1,1,1,1]"), method="none", conv="spatial-svd", rank=4, only=("*b_w",))
    first, second = 4 * 12 * 3 * 12 * 12, 12 * 4 * 3 * 12 * 6  # the first goes over all columns
    assert result.report.before.macs - result.report.after.macs == 12 * 108 * 12 * 6 - first - second


def test_the_kind_is_the_one_whose_form_the_weight_has() -> None:
    rng = np.random.default_rng(1)
    mixed = (rng.standard_normal((12, 4)) @ rng.standard_normal((4, 108))).reshape(12, 12, 3, 3) / 20
    for weight, kind in ((one_column(4), "spatial-svd"), (mixed.astype(np.float32), "channel")):
        result = run(network(weights={"b_w": weight}), method="none", conv="auto", macs=0.6, only=("*b_w",))
        assert products(result)["Conv:b"][0] == kind
        assert result.report.budget.reached <= 0.6


def test_dead_channels_are_pruned_and_separable_windows_split() -> None:
    body = f"""a = Conv <{PLAIN}> (x, a_w, a_b) r = Relu (a) b = Conv <{PLAIN}> (r, b_w) s = Relu (b)
    c = Conv <{PLAIN}> (s, c_w) t = Relu (c) g = GlobalAveragePool (t) f = Flatten (g) y = Gemm <transB=1> (f, y_w)"""
    dead = np.where(np.arange(12) % 2, -100, 0).astype(np.float32)
    weights: Weights = {"a_w": (12, 3, 3, 3), "a_b": dead, "b_w": (12, 12, 3, 3), "c_w": one_column(4), "y_w": (6, 12)}
    model = model_from_text("(float[N,3,12,12] x) => (float[N,6] y)", body, weights)
    runs: tuple[dict[str, Any], ...] = ({"conv": "auto"}, {}, {"method": "none", "conv": "auto"})
    mixed, pruned, split = (run(model, macs=0.45, **options) for options in runs)
    assert {group.name: group.kept for group in mixed.report.groups} == {"Conv:a": 6, "Conv:b": 12, "Conv:c": 12}
    assert products(mixed) == {"Conv:c": ("spatial-svd", 4)}
    fresh = pictures(32, (3, 12, 12), seed=9)
    assert error(mixed.model, model, fresh) < 0.2 * min(error(one.model, model, fresh) for one in (pruned, split))


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.5}])
def test_a_residual_network_meets_its_budget_with_cuts_and_products(budget: dict[str, float]) -> None:
    inputs = pictures(64)
    result = prune(resnet(), inputs, conv="auto", **budget)
    assert 0.4 < result.report.budget.reached <= 0.5
    assert result.report.proof < 1e-5


@pytest.mark.parametrize("kind", ["channel", "spatial-svd"])
def test_a_plan_tells_the_kind_and_is_replayed(kind: str) -> None:
    model = network(weights={"b_w": one_column(4)})
    made = run(model, macs=0.5, conv=kind, rank=4, allocate="uniform")
    planned = {one.name: (one.kind, one.rank, one.method) for one in made.plan.products}
    assert planned["Conv:b"] == (kind, 4, "response")
    inputs = pictures(48, (3, 12, 12))
    for calib in (None, inputs):
        again = apply_plan(model, made.plan, calib=calib)
        assert {one.name: (one.kind, one.rank, one.method) for one in again.plan.products} == planned
        assert again.report.products[0].kind == kind
        for name in ("b_w.first", "b_w.second"):
            assert constants(again.model)[name].shape == constants(made.model)[name].shape
        assert again.report.after.macs == made.report.after.macs


def test_more_energy_takes_a_higher_rank() -> None:
    low, high = (run(network(), method="none", conv="spatial-svd", energy=e) for e in (0.6, 0.9))
    assert products(low)["Conv:b"][1] < products(high)["Conv:b"][1]
