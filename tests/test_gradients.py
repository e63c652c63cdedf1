"""Scores from gradients, against gates, losses and Hessians written by hand in torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model
from graph_text import integers, model_from_text
from model_counts import constants
from pipeline_case import pictures, prune, resnet
from scipy.special import log_softmax
from scipy.stats import spearmanr

from onnxprune.config import make_config
from onnxprune.criteria.scored import Scores
from onnxprune.errors import BadInput
from onnxprune.importance import SCORERS
from onnxprune.model_io import load
from onnxprune.prepare import open_data, prepare

torch = pytest.importorskip("torch")
F = torch.nn.functional

RESIDUAL = """
    a = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b)
    s = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (s, b_w, b_b)
    m = Relu (b)
    c = Conv <pads = [1, 1, 1, 1]> (m, c_w, c_b)
    t = Add (s, c)
    r = Relu (t)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, d_w, d_b)
"""
WIDTH, MIDDLE, CLASSES = 8, 12, 5


def residual() -> onnx.ModelProto:
    """A stream of 8 channels with one block of 12 inside; channels of very different weight."""
    shapes: dict[str, Any] = {
        "a_w": (WIDTH, 3, 3, 3),
        "a_b": (WIDTH,),
        "b_w": (MIDDLE, WIDTH, 3, 3),
        "b_b": (MIDDLE,),
        "c_w": (WIDTH, MIDDLE, 3, 3),
        "c_b": (WIDTH,),
        "d_w": (CLASSES, WIDTH),
        "d_b": (CLASSES,),
    }
    model = model_from_text("(float[N, 3, 8, 8] x) => (float[N, 5] y)", RESIDUAL, shapes)
    scales = {"c_w": np.linspace(0.1, 1.5, MIDDLE)[:, None, None], "d_w": 4 * np.linspace(0.05, 1, WIDTH)}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            changed = onnx.numpy_helper.to_array(tensor) * scales[tensor.name].astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    return model


def by_hand(
    weights: Mapping[str, Any], x: Any, stream: Any, middle: Any, replaced: Mapping[str, Any] | None = None
) -> Any:
    """The residual network with a factor on each channel of the stream and of the block, wherever it is read."""
    w = {name: torch.tensor(array) for name, array in weights.items()} | dict(replaced or {})
    s = torch.relu(F.conv2d(x, w["a_w"], w["a_b"], padding=1))
    m = torch.relu(F.conv2d(s * stream[:, None, None], w["b_w"], w["b_b"], padding=1))
    c = F.conv2d(m * middle[:, None, None], w["c_w"], w["c_b"], padding=1)
    return F.linear(torch.relu(s + c).mean((2, 3)) * stream, w["d_w"], w["d_b"])


def scores(method: str, model: onnx.ModelProto, calib: Any, **options: Any) -> Scores:
    config = make_config(method=method, **{"samples": 96, "align": 1} | options)
    loaded = load(model).model
    data = open_data(loaded, calib, config)
    return SCORERS[method](prepare(loaded, data, config, True), data, config, lambda: None)


def labelled(count: int = 96) -> dict[str, np.ndarray]:
    x = pictures(count, (3, 8, 8))
    return {"x": x, "y": np.random.default_rng(1).integers(0, CLASSES, count)}


def gradients_by_hand(calib: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8) and (N, 12): one backward pass a sample, the cross-entropy of its label in the gates."""
    weights, found = constants(residual()), []
    for x, y in zip(calib["x"], calib["y"], strict=True):
        gates = [torch.ones(WIDTH, requires_grad=True), torch.ones(MIDDLE, requires_grad=True)]
        logits = by_hand(weights, torch.from_numpy(x[None]), *gates)
        loss = F.cross_entropy(logits, torch.tensor([int(y)]))
        found.append([g.numpy() for g in torch.autograd.grad(loss, gates)])
    stream, middle = (np.stack(part) for part in zip(*found, strict=True))
    return stream, middle


@pytest.mark.parametrize(
    ("method", "expected"), [("taylor", lambda g: np.abs(g).mean(0)), ("fisher", lambda g: (g**2).mean(0) / 2)]
)
def test_gates_of_a_stream_and_of_a_block_have_the_scores_of_gates_written_by_hand(method: str, expected: Any) -> None:
    calib = labelled()
    found = scores(method, residual(), calib, samples=90).by_group
    data = open_data(load(residual()).model, calib, make_config(samples=90))
    x = np.concatenate([feeds["x"] for feeds in data.source.batches()])
    rows = [int(np.flatnonzero((calib["x"] == one).all((1, 2, 3)))[0]) for one in x]
    stream, middle = gradients_by_hand({"x": x, "y": calib["y"][rows]})
    np.testing.assert_allclose(found["Conv:a"], expected(stream), rtol=1e-3)
    np.testing.assert_allclose(found["Conv:b"], expected(middle), rtol=1e-3)


def losses_by_removal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(original ‖ without the channel) for each channel of the stream and of the block."""
    weights, ones = constants(residual()), [np.ones(WIDTH, np.float32), np.ones(MIDDLE, np.float32)]

    def chances(stream: np.ndarray, middle: np.ndarray) -> np.ndarray:
        logits = by_hand(weights, torch.from_numpy(x), torch.from_numpy(stream), torch.from_numpy(middle))
        return np.asarray(log_softmax(logits.numpy().astype(np.float64), 1))

    whole, found = chances(*ones), []
    for number, gates in enumerate(ones):
        cut = [[g.copy() for g in ones] for _ in gates]
        for unit, one in enumerate(cut):
            one[number][unit] = 0
        without = [chances(*one) for one in cut]
        found.append(np.array([np.mean(np.sum(np.exp(whole) * (whole - q), 1)) for q in without]))
    return found[0], found[1]


def test_fisher_ranks_as_the_losses_of_removing_each_channel_do() -> None:
    x = pictures(400, (3, 8, 8))
    found = scores("fisher", residual(), x, samples=400).by_group
    stream, middle = losses_by_removal(x)
    assert spearmanr(found["Conv:a"], stream).statistic >= 0.8
    assert spearmanr(found["Conv:b"], middle).statistic >= 0.8


def test_ablation_gives_the_losses_of_removing_each_channel() -> None:
    x = pictures(64, (3, 8, 8))
    found = scores("fisher", residual(), x, samples=64, ablation=True)
    used = np.concatenate(
        [f["x"] for f in open_data(load(residual()).model, x, make_config(samples=64)).source.batches()]
    )
    stream, middle = losses_by_removal(used)
    np.testing.assert_allclose(found.by_group["Conv:a"], stream, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.by_group["Conv:b"], middle, rtol=1e-3, atol=1e-7)


def test_samples_that_cannot_be_told_apart_are_run_one_by_one_to_the_same_scores() -> None:
    calib = labelled(24)
    fixed = residual()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    together = scores("fisher", residual(), calib, samples=20).by_group
    alone = scores("fisher", fixed, calib, samples=20).by_group
    for name, score in together.items():
        np.testing.assert_allclose(alone[name], score, rtol=1e-3)


def test_a_recurrent_layer_counts_what_its_units_read_of_each_other() -> None:
    body = """
        t = Transpose <perm = [1, 0, 2]> (x)
        h, z = RNN <hidden_size = 6> (t, w_w, r_w, b_b)
        l = Squeeze (z, zero)
        y = Gemm (l, d_w, d_b)
    """
    rng = np.random.default_rng(2)
    arrays = {"w_w": (1, 6, 4), "r_w": (1, 6, 6), "b_b": (1, 12), "d_w": (6, 3), "d_b": (3,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in arrays.items()}
    model = model_from_text("(float[N, 7, 4] x) => (float[N, 3] y)", body, {**weights, "zero": integers(0)})
    x, y = rng.standard_normal((10, 7, 4)).astype(np.float32), rng.integers(0, 3, 10)
    found = scores("fisher", model, {"x": x, "y": y}, samples=10).by_group
    w = {name: torch.from_numpy(array) for name, array in weights.items()}
    squares = []
    for n in range(10):
        gate, h = torch.ones(6, requires_grad=True), torch.zeros(6)
        for step in torch.from_numpy(x[n]):
            h = torch.tanh(w["w_w"][0] @ step + w["r_w"][0] @ (h * gate) + w["b_b"][0].reshape(2, 6).sum(0))
        loss = F.cross_entropy(((h * gate) @ w["d_w"] + w["d_b"])[None], torch.tensor([int(y[n])]))
        squares.append(torch.autograd.grad(loss, gate)[0].numpy() ** 2)
    (score,) = found.values()
    np.testing.assert_allclose(np.sort(score), np.sort(np.mean(squares, 0) / 2), rtol=1e-3)


@pytest.mark.parametrize("method", ["taylor", "fisher", "hessian"])
@pytest.mark.parametrize("rebuild", ["lsq", "none"])
def test_outputs_that_are_no_classifier_are_judged_by_drawn_residuals(method: str, rebuild: str) -> None:
    result = prune(resnet(), pictures(40), method=method, rebuild=rebuild, macs=0.7)
    assert result.report.proof < 1e-5
    assert any("Gradients are of" in note for note in result.report.notes)


def test_the_report_says_which_labels_were_used() -> None:
    x = tiny_inputs()
    drawn = prune(tiny_model(), x, method="taylor", ratio=0.5).report.notes
    given = prune(tiny_model(), {"x": x, "y": np.arange(32) % 4}, method="taylor", ratio=0.5).report.notes
    assert "drawn from the model's own softmax" in drawn[0]
    assert "with the labels y" in given[0]


def test_labels_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(BadInput, match="class 9, the model has classes 0 to 3"):
        prune(tiny_model(), {"x": tiny_inputs(), "y": np.full(32, 9)}, method="fisher", ratio=0.5)


def test_labels_of_a_file_stay_beside_their_inputs(tmp_path: Path) -> None:
    calib = labelled(60)
    np.savez(tmp_path / "c.npz", **calib)
    np.testing.assert_array_equal(
        scores("taylor", residual(), str(tmp_path / "c.npz")).by_group["Conv:a"],
        scores("taylor", residual(), calib).by_group["Conv:a"],
    )


def test_widths_of_fisher_go_where_a_multiply_add_does_least_damage() -> None:
    result = prune(residual(), labelled(), method="fisher", rebuild="none", macs=0.6, fisher_cost="macs", samples=90)
    assert result.report.after.macs / result.report.before.macs <= 0.6
    assert result.report.allocation == "fisher: the least damage for each multiply–add"
    kept = {group.name: group.kept for group in result.report.groups}
    assert 0 < kept["Conv:b"] < MIDDLE


@pytest.mark.parametrize("method", ["taylor", "fisher", "hessian"])
def test_a_run_of_gradients_is_repeated_bit_for_bit(method: str) -> None:
    first, again = (scores(method, residual(), pictures(80, (3, 8, 8)), batch_size=16).by_group for _ in range(2))
    for name, score in first.items():
        np.testing.assert_array_equal(score, again[name])
