"""Sweep 2 against numpy: each layer is the least-squares answer to what the pruned network really gives it."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import constants
from sweep_case import Net, channels_last, im2col, net, net_of, ridge

from onnxprune.calibration.allowance import Allowance
from onnxprune.rebuild import _batches, downstream

RHO = 0.01
PADDED: dict[str, Any] = {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
STRIDED = {**PADDED, "strides": (2, 2)}
POINT = {**PADDED, "kernel": (1, 1), "pads": (0, 0, 0, 0)}
BODY = """
s = Conv <pads=[1,1,1,1]> (x, s_w, s_b)
h = Tanh (s)
a = Conv <pads=[1,1,1,1]> (h, a_w, a_b)
ah = Tanh (a)
b = Conv <pads=[1,1,1,1]> (ah, b_w, b_b)
r = Add (b, h)
rh = Tanh (r)
c = Conv <pads=[1,1,1,1], strides=[2,2]> (rh, c_w, c_b)
ch = Sigmoid (c)
d = Conv <group = 2> (ch, d_w, d_b)
dh = Tanh (d)
g = GlobalAveragePool (dh)
f = Flatten (g)
y = Gemm <transB=1> (f, fc_w, fc_b)
"""
WEIGHTS: Weights = {
    "s_w": (5, 2, 3, 3), "s_b": (5,), "a_w": (6, 5, 3, 3), "a_b": (6,), "b_w": (5, 6, 3, 3), "b_b": (5,),
    "c_w": (8, 5, 3, 3), "c_b": (8,), "d_w": (6, 4, 1, 1), "d_b": (6,), "fc_w": (3, 6), "fc_b": (3,),
}  # fmt: skip
SIGNATURE = "(float[N,2,8,8] x) => (float[N,3] y)"
ALL = ["Conv:a", "Conv:b", "Conv:c", "Conv:d", "Gemm:y"]


def inputs(count: int, shape: tuple[int, ...] = (2, 8, 8)) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((count, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def residual() -> Net:
    return net(SIGNATURE, BODY, WEIGHTS, {"x": inputs(70)})


@pytest.fixture(autouse=True)
def one_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ridge is best is another test's business."""
    monkeypatch.setattr("onnxprune.solve.RIDGES", (RHO,))


def activation(model: onnx.ModelProto, network: Net, name: str) -> np.ndarray:
    return run(model, network.inputs, [name])[name]


def assert_solved(
    network: Net, keep: np.ndarray, slim: onnx.ModelProto, solved: onnx.ModelProto, names: list[str], **shape: Any
) -> None:
    """`names`: of weight, bias, input, output as the next layer reads it, and partner where there is one."""
    weight, bias, x, y, *partner = names
    wanted = channels_last(activation(network.proto, network, y))
    linear = next(layer.linear for layer in network.layers if layer.linear.weight.name == weight)
    wanted = wanted[:, keep[linear.outputs.reshape(-1)]]
    if partner:
        wanted = wanted - channels_last(activation(solved, network, partner[0]))
    rows = activation(solved, network, x)
    rows = im2col(rows, **shape) if shape else rows
    prior, found = constants(slim)[weight], constants(solved)
    expected, intercept = ridge(rows, wanted, prior.reshape(len(prior), -1), RHO)
    np.testing.assert_allclose(found[weight].reshape(len(prior), -1), expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(found[bias], intercept, rtol=2e-3, atol=5e-4)


def test_each_layer_is_the_best_fit_on_the_pruned_networks_own_activations(residual: Net) -> None:
    keep = residual.analysis.keep_without({"Conv:s": [1], "Conv:a": [0, 4], "Conv:d": [2, 5]})
    slim, solved, done = residual.rebuild(keep)
    assert [layer.name for layer in done] == ALL
    assert_solved(residual, keep, slim, solved, ["a_w", "a_b", "h", "a"], **PADDED)
    assert_solved(residual, keep, slim, solved, ["b_w", "b_b", "ah", "r", "h"], **PADDED)
    assert_solved(residual, keep, slim, solved, ["c_w", "c_b", "rh", "c"], **STRIDED)
    assert_solved(residual, keep, slim, solved, ["fc_w", "fc_b", "f", "y"])


def test_the_layer_before_a_sum_makes_up_for_what_the_shortcut_lost(residual: Net) -> None:
    """Y₁ + Y₂ − Y₁′ (He et al. 2017): the sum is nearer to the original's than with b alone as the target."""
    keep = residual.analysis.keep_without({"Conv:s": [1], "Conv:a": [0, 4]})
    slim, solved, _ = residual.rebuild(keep)
    rows = im2col(activation(solved, residual, "ah"), **PADDED)
    stays = keep[residual.layer("Conv:b").linear.outputs[0]]
    b, r = (channels_last(activation(residual.proto, residual, name))[:, stays] for name in ("b", "r"))
    shortcut = channels_last(activation(solved, residual, "h"))
    plain, intercept = ridge(rows, b, constants(slim)["b_w"].reshape(4, -1), RHO)
    reached = channels_last(activation(solved, residual, "r"))
    assert np.mean((reached - r) ** 2) <= np.mean((rows @ plain.T + intercept + shortcut - r) ** 2) * (1 + 1e-6)


def test_each_block_of_a_grouped_convolution_is_solved_by_itself(residual: Net) -> None:
    keep = residual.analysis.keep_without({"Conv:c": [1, 6]})
    slim, solved, done = residual.rebuild(keep)
    assert [layer.name for layer in done] == ["Conv:d", "Gemm:y"]
    x, y = activation(solved, residual, "ch"), channels_last(activation(residual.proto, residual, "d"))
    prior, found = constants(slim)["d_w"], constants(solved)
    assert prior.shape == (6, 3, 1, 1)
    for block in range(2):
        own = slice(3 * block, 3 * block + 3)
        expected, intercept = ridge(channels_last(x[:, own]), y[:, own], prior[own, :, 0, 0], RHO)
        np.testing.assert_allclose(found["d_w"][own, :, 0, 0], expected, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(found["d_b"][own], intercept, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize(
    ("removed", "untouched"),
    [({"Conv:d": [0, 3]}, "sabcd"), ({"Conv:c": [0, 4]}, "sabc"), ({"Conv:a": [2]}, "sa"), ({"Conv:s": [3]}, "s")],
)
def test_what_lies_before_every_removal_stays_bit_for_bit(
    residual: Net, removed: dict[str, list[int]], untouched: str
) -> None:
    slim, solved, done = residual.rebuild(residual.analysis.keep_without(removed))
    before, after = constants(slim), constants(solved)
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == (name[0] in untouched), name
    assert [layer.name for layer in done] == [n for n in ALL if n[-1] not in untouched]
    original = constants(residual.proto)
    for name in (n for n in original if n[0] in untouched and before[n].shape == original[n].shape):
        np.testing.assert_array_equal(after[name], original[name])


def test_nothing_removed_means_nothing_solved(residual: Net) -> None:
    slim, solved, done = residual.rebuild(residual.analysis.keep_all())
    assert done == []
    assert slim.SerializeToString() == solved.SerializeToString()


def test_the_reported_errors_are_those_of_the_rows_held_out(residual: Net) -> None:
    keep = residual.analysis.keep_without({"Conv:d": [0, 3]})
    slim, _, (only,) = residual.rebuild(keep)
    x = activation(slim, residual, "f")
    y = run(residual.proto, residual.inputs)["y"]
    held = np.concatenate([np.arange(start + 14, start + 16) for start in (0, 16, 32, 48)])
    weight, bias = constants(slim)["fc_w"], constants(slim)["fc_b"]
    scale = y[held].var(0).sum()
    assert only.before == pytest.approx(((y - x @ weight.T - bias)[held] ** 2).sum(1).mean() / scale, rel=1e-3)
    weight, bias = ridge(x, y, weight, RHO)
    assert only.after == pytest.approx(((y - x @ weight.T - bias)[held] ** 2).sum(1).mean() / scale, rel=1e-3)


CHAIN = """
a = Conv <pads=[1,1,1,1]> (x, a_w, a_b) ah = Tanh (a)
b = Conv <pads=[1,1,1,1]> (ah, b_w, b_b) bh = Tanh (b)
c = Conv (bh, c_w, c_b)
"""
CHAIN_WEIGHTS: Weights = {
    "a_w": (6, 2, 3, 3), "a_b": (6,), "b_w": (7, 6, 3, 3), "b_b": (7,), "c_w": (4, 7, 1, 1), "c_b": (4,),
}  # fmt: skip


def chain(count: int = 40, between: str = "Tanh") -> Net:
    return net("(float[N,2,6,6] x) => (float[N,4,6,6] c)", CHAIN.replace("Tanh", between), CHAIN_WEIGHTS,
               {"x": inputs(count, (2, 6, 6))})  # fmt: skip


def test_factors_are_the_best_multiples_of_each_channels_own_part() -> None:
    network = chain()
    keep = network.analysis.keep_without({"Conv:a": [1, 5], "Conv:b": [0]})
    slim, solved, done = network.rebuild(keep, "scale")
    assert [layer.name for layer in done] == ["Conv:b", "Conv:c"]
    for weight, x, y, shape in (("b_w", "ah", "b", PADDED), ("c_w", "bh", "c", POINT)):
        kernel = constants(slim)[weight]
        taps = kernel[0, 0].size
        rows = im2col(activation(solved, network, x), **shape).astype(np.float64)
        wanted = channels_last(activation(network.proto, network, y)).astype(np.float64)
        original = wanted[:, keep[network.layer(f"Conv:{y}").linear.outputs[0]]]
        rows, wanted = rows - rows.mean(0), original - original.mean(0)
        own = [slice(i * taps, (i + 1) * taps) for i in range(kernel.shape[1])]
        parts = np.stack([(rows[:, s] @ kernel.reshape(len(kernel), -1)[:, s].T).ravel() for s in own], axis=1)
        factors = np.linalg.lstsq(parts, wanted.ravel(), rcond=None)[0]
        found = constants(solved)[weight]
        np.testing.assert_allclose(found, kernel * factors[None, :, None, None], rtol=1e-3, atol=1e-4)
        means = channels_last(activation(solved, network, y)).mean(0) - original.mean(0)
        np.testing.assert_allclose(means, 0, atol=1e-4)


def test_factors_go_only_to_layers_that_lost_inputs() -> None:
    network = chain()
    _, solved, done = network.rebuild(network.analysis.keep_without({"Conv:a": [1, 5]}), "scale")
    assert [layer.name for layer in done] == ["Conv:b"]
    np.testing.assert_array_equal(constants(solved)["c_w"], constants(network.proto)["c_w"])
    assert [x.name for x in network.rebuild(network.analysis.keep_without({"Conv:a": [1, 5]}))[2]] == [
        "Conv:b",
        "Conv:c",
    ]


def test_the_layer_in_front_helps_where_a_relu_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain(64, "Relu")
    keep = network.analysis.keep_without({"Conv:a": [0, 1, 2], "Conv:b": [0, 3, 6]})
    _, with_pairs, _ = network.rebuild(keep)
    monkeypatch.setattr("onnxprune.rebuild.find_pairs", lambda layers: {})
    _, alone, _ = network.rebuild(keep)
    fresh = {"x": np.random.default_rng(9).standard_normal((64, 2, 6, 6)).astype(np.float32)}
    wanted = run(network.proto, fresh)["c"]
    error = {k: np.mean((run(m, fresh)["c"] - wanted) ** 2) for k, m in (("both", with_pairs), ("alone", alone))}
    assert error["both"] < 0.97 * error["alone"]
    np.testing.assert_array_equal(constants(alone)["a_w"], np.delete(constants(network.proto)["a_w"], [0, 1, 2], 0))


def test_layers_too_wide_for_a_gram_matrix_are_solved_from_their_rows() -> None:
    network = chain(24)
    network = replace(network, sampling=replace(network.sampling, allowance=Allowance(widest=8)))
    keep = network.analysis.keep_without({"Conv:a": [1, 5]})
    slim, solved, done = network.rebuild(keep)
    assert np.isnan(done[0].after)
    wanted = channels_last(activation(network.proto, network, "b"))
    left, right = (np.mean((channels_last(activation(m, network, "b")) - wanted) ** 2) for m in (slim, solved))
    rows = im2col(activation(slim, network, "ah"), **PADDED)
    weight, bias = ridge(rows, wanted, constants(slim)["b_w"].reshape(7, -1), RHO)
    assert right < 0.7 * left
    assert right == pytest.approx(np.mean((rows @ weight.T + bias - wanted) ** 2), rel=0.05)


def test_layers_too_large_to_be_solved_keep_their_weights_and_give_the_right_means() -> None:
    network = chain(24)
    network = replace(network, sampling=replace(network.sampling, allowance=Allowance(widest=0, largest=0)))
    keep = network.analysis.keep_without({"Conv:a": [1, 5]})
    slim, solved, _ = network.rebuild(keep)
    np.testing.assert_array_equal(constants(solved)["b_w"], constants(slim)["b_w"])
    wanted = channels_last(activation(network.proto, network, "b")).mean(axis=0)
    before, after = (channels_last(activation(m, network, "b")).mean(axis=0) for m in (slim, solved))
    assert np.abs(before - wanted).max() > 1e-2
    np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_what_the_body_of_an_if_reads_changes_what_follows() -> None:
    body = """
    a = Conv (x, a_w, a_b) ah = Tanh (a) b = Conv (ah, b_w, b_b) bh = Tanh (b)
    m = ReduceMean <keepdims = 0> (x) big = Greater (m, zero)
    s = If (big) <then_branch = t () => (float[N,7,6,6] p) { p = Neg (bh) },
                  else_branch = e () => (float[N,7,6,6] q) { q = Abs (bh) }>
    c = Conv (s, c_w, c_b)
    """
    weights: Weights = {**CHAIN_WEIGHTS, "a_w": (6, 2, 1, 1), "b_w": (7, 6, 1, 1), "zero": np.float32(0)}
    network = net("(float[N,2,6,6] x) => (float[N,4,6,6] c)", body, weights, {"x": inputs(32, (2, 6, 6))})
    keep = network.analysis.keep_without({"Conv:a": [1, 5]})
    assert {"s", "c"} <= downstream(network.analysis, keep)
    slim, solved, done = network.rebuild(keep)
    assert [layer.name for layer in done] == ["Conv:b", "Conv:c"]
    parts = [run(solved, feeds, ["s", "c"]) for feeds in network.source.batches()]
    wanted = [run(network.proto, feeds)["c"] for feeds in network.source.batches()]
    rows, y = (channels_last(np.concatenate(p)) for p in ([part["s"] for part in parts], wanted))
    expected, bias = ridge(rows, y, constants(slim)["c_w"][:, :, 0, 0], RHO)
    np.testing.assert_allclose(constants(solved)["c_w"][:, :, 0, 0], expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(constants(solved)["c_b"], bias, rtol=2e-3, atol=5e-4)


def test_activations_whose_type_no_inference_knows_are_no_obstacle() -> None:
    model = model_from_text("(float[N,2,6,6] x) => (float[N,4,6,6] c)", CHAIN, CHAIN_WEIGHTS)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "FastGelu", "com.microsoft"
    network = net_of(model, {"x": inputs(24, (2, 6, 6))})
    keep = network.analysis.keep_without({"Conv:b": [1, 5]})
    slim, solved, done = network.rebuild(keep)
    assert [layer.name for layer in done] == ["Conv:c"]
    assert_solved(network, keep, slim, solved, ["c_w", "c_b", "bh", "c"], **POINT)


def test_no_step_drops_a_batch_that_a_later_one_wants(residual: Net) -> None:
    class Some:
        def used(self, linear: Any) -> int:
            return {"Conv:a": 2, "Conv:b": 5, "Conv:c": 1, "Conv:d": 3, "Gemm:y": 2}[linear.node.name]

    assert _batches(residual.layers[1:], Some()) == [0, 2, 5, 3, 3, 2]  # type: ignore[arg-type]
