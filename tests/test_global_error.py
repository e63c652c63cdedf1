"""Factors trained together: nearer outputs, nothing else touched, the same bits again; and what cannot be trained."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import FAST
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import constants
from pipeline_case import pictures, prune

from onnxprune import global_error
from onnxprune.cli import run as command
from onnxprune.errors import BadInput
from onnxprune.pipeline import Result
from onnxprune.replay import apply_plan

TWO: dict[str, Any] = {"method": "none", "rank": 4, "samples": 256, "only": ("a_w", "c_w")}
GER: dict[str, Any] = {"fc": "ger", "ger_epochs": 8}
MLP = """
h = Gemm <transB = 1> (x, a_w, a_b)
r = Relu (h)
g = Gemm <transB = 1> (r, c_w, c_b)
s = Relu (g)
y = Gemm <transB = 1> (s, d_w, d_b)
"""
WEIGHTS: Weights = {"a_w": (24, 20), "a_b": (24,), "c_w": (24, 24), "c_b": (24,), "d_w": (5, 24), "d_b": (5,)}
BODY = """
m = Conv <pads = [1, 1, 1, 1]> (x, k_w, k_b)
n = Relu (m)
p = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (n)
f = Flatten (p)
h = Gemm <transB = 1> (f, a_w, a_b)
r = Relu (h)
g = Gemm <transB = 1> (r, c_w, c_b)
s = Relu (g)
y = Gemm <transB = 1> (s, d_w, d_b)
"""
KINDS: dict[str, tuple[str, str, Weights]] = {
    "tokens": (
        "(float[N, 7, 20] x) => (float[N, 7, 20] y, float[N, 7, 4] z)",
        "h = MatMul (x, a_w) t = Tanh (h) g = MatMul (t, c_w) y = Add (g, x)"
        " l = MatMul (y, d_w) z = Softmax <axis = 2> (l)",
        {"a_w": (20, 24), "c_w": (24, 20), "d_w": (20, 4)},
    ),
    "pointwise convolutions": (
        "(float[N, 20, 5, 5] x) => (float[N, 6] y)",
        "h = Conv (x, a_w, a_b) r = Relu (h) g = Conv (r, c_w, c_b) s = Relu (g)"
        " p = AveragePool <kernel_shape = [5, 5]> (s) f = Flatten (p) y = Gemm <transB = 1> (f, d_w, d_b)",
        {"a_w": (24, 20, 1, 1), "a_b": (24,), "c_w": (24, 24, 1, 1), "c_b": (24,), "d_w": (6, 24), "d_b": (6,)},
    ),
    "a shape from the batch": (
        "(float[N, 20] x) => (float[N, 5] y, int64[N] k)",
        "n = Shape <start = 0, end = 1> (x) v = Concat <axis = 0> (n, whole)"
        " h = Gemm <transB = 1> (x, a_w, a_b) r = Relu (h) e = Reshape (r, v) g = Gemm <transB = 1> (e, c_w, c_b)"
        " s = Relu (g) y = Gemm <transB = 1> (s, d_w, d_b) k = ArgMax <axis = 1, keepdims = 0> (y)",
        {**WEIGHTS, "whole": np.array([24])},
    ),
}


@pytest.fixture(autouse=True)
def _torch() -> None:
    pytest.importorskip("torch")


def mlp() -> onnx.ModelProto:
    return model_from_text("(float[N, 20] x) => (float[N, 5] y)", MLP, WEIGHTS)


def with_body() -> onnx.ModelProto:
    weights: Weights = {**WEIGHTS, "k_w": (20, 3, 3, 3), "k_b": (20,), "a_w": (24, 80)}
    return model_from_text("(float[N, 3, 8, 8] x) => (float[N, 5] y)", BODY, weights)


def inputs(shape: tuple[int, ...] = (20,), count: int = 272, seed: int = 0) -> np.ndarray:
    """Correlated numbers: `shape` without the samples; the axis of 20 is mixed."""
    rng = np.random.default_rng(3)
    mixing = (rng.standard_normal((20, 20)) * np.geomspace(2, 0.1, 20)).astype(np.float32)
    drawn = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    axis = shape.index(20) + 1 if 20 in shape else None
    return drawn if axis is None else np.moveaxis(np.moveaxis(drawn, axis, -1) @ mixing, -1, axis).copy()


def apart(result: Result, model: onnx.ModelProto, fresh: np.ndarray) -> float:
    """The squared error of the outputs over their variance, as numpy counts it on inputs that nobody saw."""
    found, wanted = run(result.model, {"x": fresh}), run(model, {"x": fresh})
    names = [name for name, array in wanted.items() if array.dtype.kind == "f"]
    return float(np.mean([np.mean((found[n] - wanted[n]) ** 2) / np.var(wanted[n]) for n in names]))


def both(model: onnx.ModelProto, data: np.ndarray, **more: Any) -> tuple[Result, Result]:
    """(solved layer by layer, trained together as well)."""
    return prune(model, data, **TWO | {"fc": "as"} | more), prune(model, data, **TWO | GER | more)


def test_trained_together_the_factors_give_nearer_outputs_than_layer_by_layer() -> None:
    alone, together = both(mlp(), inputs())
    fresh = inputs(count=200, seed=1)
    assert apart(together, mlp(), fresh) < 0.8 * apart(alone, mlp(), fresh)
    told = together.report.joint
    assert told is not None
    assert told.after < 0.8 * told.before
    assert told.after == told.epochs[told.best - 1].validation
    assert (told.layers, told.samples + told.judges) == (2, 256)
    assert {one.method for one in together.plan.products} == {"ger"}
    assert [one.error for one in together.report.products] == [None, None]
    assert together.report.proof < 1e-5


def test_only_factors_and_their_biases_change() -> None:
    alone, together = (constants(one.model) for one in both(mlp(), inputs()))
    assert alone.keys() == together.keys()
    changed = {name for name in alone if alone[name].tobytes() != together[name].tobytes()}
    assert changed == {"a_w.first", "a_w.second", "a_b", "c_w.first", "c_w.second", "c_b"}


def test_a_run_repeats_bit_for_bit_and_another_seed_gives_another_one() -> None:
    one, same, other = (constants(prune(mlp(), inputs(), **TWO | GER, seed=seed).model) for seed in (0, 0, 1))
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert one["a_w.first"].tobytes() != other["a_w.first"].tobytes()


def test_layers_behind_a_pruned_body_are_trained_toward_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    tails, plain = [], global_error.subgraph

    def seen(*given: Any) -> Any:
        tails.append(plain(*given))
        return tails[-1]

    monkeypatch.setattr(global_error, "subgraph", seen)
    data, fresh = pictures(272, (3, 8, 8)), pictures(200, (3, 8, 8), seed=1)
    alone, together = both(with_body(), data, rank=2, method="magnitude", ratio=0.5, only=("k_w", "a_w", "c_w"))
    assert [node.op_type for node in tails[0].graph] == ["Gemm", "Gemm", "Relu", "Gemm", "Gemm", "Relu", "Gemm"]
    before, after = constants(alone.model), constants(together.model)
    assert before["k_w"].shape == (10, 3, 3, 3)
    assert before["k_w"].tobytes() == after["k_w"].tobytes()
    assert apart(together, with_body(), fresh) < 0.95 * apart(alone, with_body(), fresh)
    assert together.report.proof < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_any_kind_are_trained_and_outputs_of_any_kind_are_matched(kind: str) -> None:
    signature, text, weights = KINDS[kind]
    model = model_from_text(signature, text, weights)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    result = prune(model, inputs(shape), **TWO | GER)
    told = result.report.joint
    assert told is not None
    assert told.layers == 2
    assert told.after < 0.9 * told.before
    assert result.report.proof < 1e-5


def test_from_singular_vectors_it_ends_elsewhere() -> None:
    alone, together = (prune(mlp(), inputs(), **TWO | given) for given in ({"fc": "lrd"}, {**GER, "init": "svd"}))
    assert together.report.joint is not None
    fresh = inputs(count=200, seed=1)
    assert apart(together, mlp(), fresh) < 0.5 * apart(alone, mlp(), fresh)
    assert together.report.joint.before > 2 * together.report.joint.after


def test_a_rate_that_leads_nowhere_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.training import joint

    monkeypatch.setattr(joint, "RATES", (1e30, 3e-3))
    retried = prune(mlp(), inputs(), **TWO | GER)
    monkeypatch.setattr(joint, "RATES", (3e-3,))
    straight = prune(mlp(), inputs(), **TWO | GER)
    assert retried.report.joint is not None
    assert retried.report.joint.rate == 3e-3
    one, other = constants(retried.model), constants(straight.model)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_the_start_is_kept_where_no_epoch_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.training import joint

    monkeypatch.setattr(joint, "RATES", (1e30,))
    alone, together = both(mlp(), inputs())
    before, after = constants(alone.model), constants(together.model)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    told = together.report.joint
    assert told is not None
    assert (told.best, told.after) == (0, told.before)
    assert any("no epoch did better" in note for note in together.report.notes)
    assert all(one.error is not None for one in together.report.products)


def test_where_no_output_has_a_gradient_the_start_is_kept() -> None:
    body = f"{MLP} k = ArgMax <axis = 1> (y)"
    model = model_from_text("(float[N, 20] x) => (int64[N, 1] k)", body, WEIGHTS)
    alone, together = both(model, inputs())
    before, after = constants(alone.model), constants(together.model)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert together.report.joint is None
    assert any("that have a gradient" in note for note in together.report.notes)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadInput, match=r"--fc ger needs torch.* pip install 'onnxprune\[torch\]'"):
        prune(mlp(), inputs(), **TWO | GER)


def test_a_plan_is_replayed_layer_by_layer_and_says_so() -> None:
    plan = prune(mlp(), inputs(), **TWO | GER | {"ger_epochs": 1}).plan
    blind, solved = apply_plan(mlp(), plan), apply_plan(mlp(), plan, calib=inputs())
    for result, told in ((blind, "are singular vectors"), (solved, "solved layer by layer")):
        assert {name: array.shape for name, array in constants(result.model).items()}["a_w.first"] == (4, 20)
        assert sum(told in note for note in result.report.notes) == 1
    fresh = inputs(count=200, seed=1)
    assert apart(solved, mlp(), fresh) < apart(blind, mlp(), fresh)


@pytest.mark.parametrize("given", [{"init": "svd"}, {"ger_epochs": 3}, {"fc": "as", "ger_epochs": 3}])
def test_options_of_the_joint_training_need_it(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="give --fc ger as well"):
        prune(mlp(), inputs(), **given)


def test_the_command_line_tells_what_was_gained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "in.onnx")
    np.savez("calib.npz", x=inputs())
    arguments = ["in.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--method", "none", "--fc", "ger"]
    assert (
        command(
            [
                *arguments,
                "--rank",
                "4",
                "--only",
                "a_w",
                "--only",
                "c_w",
                "--ger-epochs",
                "4",
                "--report",
                "r.json",
                *FAST,
                "--samples",
                "256",
            ]
        )
        == 0
    )
    assert "2 layers: squared error of the outputs" in capsys.readouterr().out
    joint = json.loads((tmp_path / "r.json").read_text())["joint"]
    assert [epoch["epoch"] for epoch in joint["epochs"]] == list(range(1, len(joint["epochs"]) + 1))
    assert joint["after"] == min(epoch["validation"] for epoch in joint["epochs"]) < joint["before"]
