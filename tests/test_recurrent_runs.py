"""Recurrent layers in whole runs: input weights are solved again, and what a layer reads of itself has a price."""

import dataclasses

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, integers
from pipeline_case import error, prune
from recurrent_case import Network
from sweep_case import Net, net

from onnxprune.criteria import lookup
from onnxprune.criteria.problem import Options
from onnxprune.probe import _relative, open_prober
from onnxprune.scoring import score

BODY = """
t = Transpose <perm=[1,0,2]> (x)
a, a_last = RNN <hidden_size=6> (t, a_w, a_r_w, a_b)
s = Squeeze (a_last, zero)
y = MatMul (s, out_w)
"""


def steps(count: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 5, 4)).astype(np.float32)


def changed(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """A copy with another constant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return copy


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_weights_of_the_input_take_over_what_a_removed_channel_said(kind: str, direction: str) -> None:
    """One channel says the same as another, and one is constant: after both go nothing is lost."""
    model = Network(kind, direction, 4).model()
    dense, bias = constant(model, "in_w").copy(), constant(model, "in_b").copy()
    dense[:, 5], dense[:, 4] = 0.5 * dense[:, 3], 0.0
    bias[5], bias[4] = 0.5 * bias[3], 0.7
    model = changed(changed(model, "in_w", dense), "in_b", bias)
    found = prune(model, steps(64), ratios={"MatMul:i": 0.34}, samples=60).model
    assert constant(found, "in_w").shape == (4, 4)
    assert error(found, model, steps(8)) < 0.02
    old, new = np.split(constant(model, "a_b"), 2, axis=1), np.split(constant(found, "a_b"), 2, axis=1)
    assert np.abs(new[0] - old[0]).max() > 1e-3
    np.testing.assert_array_equal(new[1], old[1])  # what is added to the recurrent part
    unsolved = prune(model, steps(64), ratios={"MatMul:i": 0.34}, samples=60, rebuild="none").model
    assert error(unsolved, model, steps(8)) > 0.05


@pytest.mark.parametrize("method", ["random", "magnitude", "thinet", "lasso", "obs"])
def test_every_method_prunes_hidden_units_and_proves_it(method: str) -> None:
    model = Network("LSTM", "bidirectional", 8, state="zeros").model()
    found = prune(model, steps(32), method=method, ratio=0.5)
    assert {group.name: group.kept for group in found.report.groups} == {"MatMul:i": 3, "LSTM:a": 4, "LSTM:b": 4}
    assert found.report.proof < 1e-5
    assert constant(found.model, "b_r_w").shape == (2, 16, 4)


def looped() -> Net:
    """A layer whose result hardly shows its unit 0, which all its units read."""
    rng = np.random.default_rng(0)
    recurrent, out = rng.standard_normal((1, 6, 6)), rng.standard_normal((6, 3))
    recurrent[:, :, 0] *= 5
    out[0] *= 1e-3
    weights: Weights = {"a_w": (1, 6, 4), "a_b": (1, 12), "zero": integers(0)}
    weights |= {"a_r_w": recurrent.astype(np.float32), "out_w": out.astype(np.float32)}
    return net("(float[N,5,4] x) => (float[N,3] y)", BODY, weights, {"x": steps(48)})


def test_a_unit_that_the_others_read_is_not_the_first_to_go() -> None:
    network = looped()
    (hidden,) = network.analysis.groups
    (one,) = score(network.analysis, network.collect(), lookup("obs"), Options(), 0, [hidden])
    assert [reader.name for reader in one.problem.readers] == ["MatMul:y", "a_r_w"]
    assert one.selection.order[0] != 0
    alone = dataclasses.replace(one.problem, readers=one.problem.readers[:1])
    assert lookup("obs").select(alone, Options()).order[0] == 0


def test_a_probe_sees_what_the_layer_no_longer_reads_of_itself() -> None:
    network = looped()
    (one,) = score(network.analysis, network.collect(), lookup("obs"), Options(), 0, network.analysis.groups)
    prober = open_prober(network.analysis, [], [one], network.inputs)
    model, recurrent = network.proto, constant(network.proto, "a_r_w").copy()
    recurrent[:, :, np.delete(np.arange(6), one.selection.keep(4))] = 0
    original, cut = (run(m, network.inputs)["y"] for m in (model, changed(model, "a_r_w", recurrent)))
    assert prober.damage([[(one, 4)]]) == pytest.approx([_relative(original, cut)])
    assert prober.damage([[(one, 6)]]) == [0.0]
