"""Dead and constant channels go exactly, through the same groups as pruning; what cannot go says why."""

import numpy as np
import onnx
import pytest
from fold_case import columns, folded, norm_of, rows
from graph_text import model_from_text
from model_counts import constants

import onnxprune
from onnxprune.errors import ProofFailed

PADDED = "<pads = [1, 1, 1, 1]>"


def test_a_column_of_zeros_takes_the_channel_from_its_writer_too() -> None:
    weights = {"a_w": (6, 3, 3, 3), "a_b": (6,), "c_w": columns((4, 6, 3, 3), 1, 4)}
    found = folded(f"a = Conv {PADDED} (x, a_w, a_b) r = Relu (a) y = Conv {PADDED} (r, c_w)", weights)
    assert found.shapes() == {"a_w": (4, 3, 3, 3), "a_b": (4,), "c_w": (4, 4, 3, 3)}
    assert found.groups() == {"Conv:a": (2, 0)}
    kept = [0, 2, 3, 5]
    np.testing.assert_array_equal(constants(found.after)["a_w"], constants(found.before)["a_w"][kept])
    np.testing.assert_array_equal(constants(found.after)["c_w"], weights["c_w"][:, kept])


@pytest.mark.parametrize(("activation", "value"), [("Relu", 0.75), ("Sigmoid", 0.6791787), ("Neg", -0.75)])
def test_a_row_of_zeros_goes_into_the_next_bias_through_the_activation(activation: str, value: float) -> None:
    bias = np.array([0.1, 0.75, -0.3, 0.2], np.float32)
    weights = {"a_w": rows((4, 3, 3, 3), 1), "a_b": bias, "c_w": (4, 4, 1, 1), "c_b": (4,)}
    found = folded(f"a = Conv {PADDED} (x, a_w, a_b) r = {activation} (a) y = Conv (r, c_w, c_b)", weights)
    assert found.groups() == {"Conv:a": (0, 1)}
    before, after = constants(found.before), constants(found.after)
    np.testing.assert_allclose(after["c_b"], before["c_b"] + before["c_w"][:, 1, 0, 0] * value, rtol=1e-5)


def test_a_constant_channel_stays_in_front_of_a_padded_convolution_and_says_so() -> None:
    weights = {"a_w": rows((4, 3, 1, 1), 1), "a_b": np.full(4, 0.5, np.float32), "c_w": (4, 4, 3, 3)}
    found = folded(f"a = Conv (x, a_w, a_b) r = Relu (a) y = Conv {PADDED} (r, c_w)", weights)
    assert found.shapes()["a_w"] == (4, 3, 1, 1)
    assert "border" in found.reasons()["Conv:a"]
    assert found.report.notes


def test_a_channel_of_zeros_goes_in_front_of_a_padded_convolution() -> None:
    weights = {"a_w": rows((4, 3, 1, 1), 1), "a_b": np.full(4, -0.5, np.float32), "c_w": (4, 4, 3, 3)}
    found = folded(f"a = Conv (x, a_w, a_b) r = Relu (a) y = Conv {PADDED} (r, c_w)", weights)
    assert found.shapes() == {"a_w": (3, 3, 1, 1), "a_b": (3,), "c_w": (4, 3, 3, 3)}


def test_a_layer_without_bias_gets_one_for_what_it_loses() -> None:
    weights = {"a_w": rows((4, 3, 1, 1), 2), "a_b": np.full(4, 0.5, np.float32), "c_w": (4, 4, 1, 1)}
    found = folded("a = Conv (x, a_w, a_b) r = Relu (a) y = Conv (r, c_w)", weights)
    np.testing.assert_allclose(constants(found.after)["c_w.bias"], constants(found.before)["c_w"][:, 2, 0, 0] / 2)


def test_channels_die_one_layer_after_the_other() -> None:
    """The last layer reads nothing of b's channels 0 and 1; those alone read a's channel 2."""
    b = columns((5, 4, 1, 1), 2)
    b[:2, 2] = 1
    weights = {"a_w": (4, 3, 1, 1), "b_w": b, "c_w": columns((4, 5, 1, 1), 0, 1)}
    found = folded("a = Conv (x, a_w) r = Relu (a) b = Conv (r, b_w) s = Relu (b) y = Conv (s, c_w)", weights)
    assert found.shapes() == {"a_w": (3, 3, 1, 1), "b_w": (3, 3, 1, 1), "c_w": (4, 3, 1, 1)}
    assert found.groups() == {"Conv:a": (1, 0), "Conv:b": (2, 0)}


def test_constants_run_on_through_several_layers() -> None:
    """Row 0 of b reads the constant channel of a alone, so b's channel 0 is constant as well."""
    b = rows((4, 4, 1, 1), 0)
    b[0, 1] = 0.5
    weights = {"a_w": rows((4, 3, 1, 1), 1), "a_b": np.full(4, 0.3, np.float32), "b_w": b, "c_w": (4, 4, 1, 1)}
    found = folded("a = Conv (x, a_w, a_b) r = Tanh (a) b = Conv (r, b_w) s = Softplus (b) y = Conv (s, c_w)", weights)
    assert found.groups() == {"Conv:a": (0, 1), "Conv:b": (0, 1)}


@pytest.mark.parametrize("width", [5, 4])
def test_a_batchnorm_with_factors_of_zero_leaves_its_shift(width: int) -> None:
    gamma = np.array([1, 0, 0.5, 0, 2])[:width]
    weights = {"a_w": (width, 3, 3, 3), "c_w": (4, width, 1, 1), **dict(norm_of("n", gamma))}
    body = f"a = Conv {PADDED} (x, a_w) n = BatchNormalization (a, n_gamma, n_beta, n_mean, n_var) s = Sigmoid (n) "
    found = folded(body + "y = Conv (s, c_w)", weights)
    assert found.shapes()["a_w"] == (width - 2, 3, 3, 3)
    assert "BatchNormalization" not in found.ops()
    assert found.report.norms == ("Conv:a",)


RESIDUAL = f"""
i = Conv (x, i_w)
j = Conv (i, j_w)
k = Relu (j)
a = Conv {PADDED} (k, a_w)
n = BatchNormalization (a, n_gamma, n_beta, n_mean, n_var)
s = Add (n, i)
y = Conv {PADDED} (s, c_w)
"""


def residual(gamma: np.ndarray, **others: np.ndarray) -> dict[str, np.ndarray | tuple[int, ...]]:
    weights = {"i_w": (6, 3, 1, 1), "j_w": (5, 6, 1, 1), "a_w": (6, 5, 3, 3), "c_w": (4, 6, 3, 3)}
    return {**weights, **dict(norm_of("n", gamma)), **others}


def test_a_zero_norm_in_a_branch_leaves_the_stream_alone() -> None:
    found = folded(RESIDUAL, residual(np.array([1, 0, 1, 1, 0, 1])))
    assert found.groups() == {}
    assert found.report.norms == ("Conv:a",)
    assert not np.any(constants(found.after)["a_w"][[1, 4]])


def test_a_branch_that_adds_nothing_but_constants_goes_whole() -> None:
    found = folded(RESIDUAL, residual(np.zeros(6)))
    assert found.ops() == ["Conv", "Add", "Conv"]
    assert found.report.constants == ("a",)
    nothing = folded(RESIDUAL, residual(np.zeros(6), n_beta=np.zeros(6, np.float32)))
    assert nothing.ops() == ["Conv", "Conv"]
    assert nothing.report.dropped == ("Add:s",)


def test_a_channel_of_a_stream_goes_where_every_writer_is_zero_and_not_before() -> None:
    body = "i = Conv (x, i_w) a = Conv (i, a_w) s = Add (a, i) y = Conv (s, c_w)"
    one = folded(body, {"i_w": rows((6, 3, 1, 1), 2), "a_w": (6, 6, 1, 1), "c_w": (4, 6, 1, 1)})
    assert one.groups() == {}
    both = folded(body, {"i_w": rows((6, 3, 1, 1), 2), "a_w": rows((6, 6, 1, 1), 2, 3), "c_w": (4, 6, 1, 1)})
    assert both.groups() == {"Conv:i": (0, 1)}
    assert both.shapes() == {"i_w": (5, 3, 1, 1), "a_w": (5, 5, 1, 1), "c_w": (4, 5, 1, 1)}


def test_a_channel_of_a_stream_goes_where_no_reader_has_a_weight_for_it() -> None:
    body = "i = Conv (x, i_w) a = Conv (i, a_w) r = Relu (a) b = Conv (r, b_w) s = Add (b, i) y = Conv (s, c_w)"
    weights = {"i_w": (6, 3, 1, 1), "a_w": columns((5, 6, 1, 1), 0, 3), "b_w": (6, 5, 1, 1)}
    found = folded(body, {**weights, "c_w": columns((4, 6, 1, 1), 3, 5)})
    assert found.groups() == {"Conv:i": (1, 0)}


def test_one_channel_stays_where_all_could_go() -> None:
    weights = {"a_w": (4, 3, 1, 1), "c_w": np.zeros((4, 4, 1, 1), np.float32), "c_b": (4,)}
    found = folded("a = Conv (x, a_w) r = Relu (a) y = Conv (r, c_w, c_b)", weights)
    assert found.shapes() == {"a_w": (1, 3, 1, 1), "c_w": (4, 1, 1, 1), "c_b": (4,)}
    assert found.reasons()["Conv:a"] == "one channel has to stay"


def test_each_group_of_a_grouped_convolution_loses_as_many() -> None:
    body = "a = Conv (x, a_w) r = Relu (a) b = Conv <group = 2> (r, b_w) y = Conv (b, c_w)"
    weights = {"a_w": rows((8, 3, 1, 1), 0, 1, 5), "b_w": (6, 4, 1, 1), "c_w": (4, 6, 1, 1)}
    found = folded(body, weights)
    assert found.shapes() == {"a_w": (6, 3, 1, 1), "b_w": (6, 3, 1, 1), "c_w": (4, 6, 1, 1)}
    assert "grouped" in found.reasons()["Conv:a"]


def test_a_depthwise_convolution_hands_a_dead_channel_on() -> None:
    body = f"a = Conv (x, a_w) r = Relu (a) d = Conv {PADDED[:-1]}, group = 6> (r, d_w, d_b) y = Conv (d, c_w)"
    weights = {"a_w": rows((6, 3, 1, 1), 4), "d_w": (6, 1, 3, 3), "d_b": (6,), "c_w": (4, 6, 1, 1)}
    found = folded(body, weights)
    assert found.shapes()["d_w"] == (5, 1, 3, 3)
    assert found.groups() == {"Conv:a": (0, 1)}


def test_a_constant_channel_goes_into_the_bias_behind_a_matrix_through_flatten() -> None:
    body = "a = Conv (x, a_w, a_b) r = Relu (a) f = Flatten (r) m = MatMul (f, m_w) y = Add (m, m_b)"
    weights = {"a_w": rows((4, 3, 4, 4), 2), "a_b": np.full(4, 0.4, np.float32), "m_w": (100, 7), "m_b": (7,)}
    found = folded(body, weights, "N,7")
    assert found.groups() == {"Conv:a": (0, 1)}
    assert found.shapes()["m_w"] == (75, 7)
    before, after = constants(found.before), constants(found.after)
    np.testing.assert_allclose(after["m_b"], before["m_b"] + 0.4 * before["m_w"][50:75].sum(0), rtol=1e-5)


def test_two_layers_that_share_a_weight_lose_what_neither_reads() -> None:
    body = "a = Conv (x, a_w, a_b) r = Relu (a) b = Conv (x, b_w, b_b) s = Relu (b) "
    weights = {"a_w": rows((5, 3, 1, 1), 1, 3), "b_w": rows((5, 3, 1, 1), 3), "c_w": columns((4, 5, 1, 1), 0)}
    biases = {"a_b": np.full(5, 0.2, np.float32), "b_b": np.full(5, 0.6, np.float32)}
    found = folded(body + "u = Conv (r, c_w) v = Conv (s, c_w) y = Sub (u, v)", {**weights, **biases})
    assert found.shapes()["c_w"] == (4, 3, 1, 1)
    after = constants(found.after)
    shared = weights["c_w"][:, 3, 0, 0]
    biased = {n.input[0]: after[n.input[2]] for n in found.after.graph.node if n.op_type == "Conv" and len(n.input) > 2}
    np.testing.assert_allclose(biased["r"], 0.2 * shared, rtol=1e-5)
    np.testing.assert_allclose(biased["s"], 0.6 * shared, rtol=1e-5)


def test_a_concatenation_keeps_constants_apart() -> None:
    body = "a = Conv (x, a_w, a_b) b = Conv (x, b_w) c = Concat <axis = 1> (a, b) s = Sigmoid (c) y = Conv (s, c_w)"
    weights = {"a_w": rows((3, 3, 1, 1), 2), "a_b": (3,), "b_w": rows((4, 3, 1, 1), 0), "c_w": (4, 7, 1, 1)}
    found = folded(body, weights)
    assert found.groups() == {"Conv:a": (0, 1), "Conv:b": (0, 1)}
    assert found.shapes()["c_w"] == (4, 5, 1, 1)


def test_a_query_channel_of_zeros_takes_its_key_along() -> None:
    body = """
    t = Reshape (x, s)
    q = MatMul (t, q_w) k = MatMul (t, k_w) kt = Transpose <perm = [0, 2, 1]> (k)
    w = MatMul (q, kt) p = Softmax (w) y = MatMul (p, t)
    """
    weights = {"s": np.array([0, 3, 64]), "q_w": columns((64, 6), 1), "k_w": columns((64, 6), 4)}
    found = folded(body, weights, "N,3,64")
    assert found.shapes()["q_w"] == found.shapes()["k_w"] == (64, 4)


def test_a_model_without_zeros_comes_back_as_it_was_and_is_told_why() -> None:
    body = "a = Conv (x, a_w) r = Relu (a) y = Conv (r, c_w)"
    found = folded(body, {"a_w": (4, 3, 1, 1), "c_w": (4, 4, 1, 1)})
    assert "Nothing was folded" in found.report.notes[0]
    before, after = constants(found.before), constants(found.after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert found.report.before == found.report.after


def test_a_group_that_cannot_be_proved_stays_whole_and_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.passes.needed.sees_borders", lambda linear: False)
    body = f"a = Conv (x, a_w, a_b) r = Relu (a) b = Conv {PADDED} (r, b_w) s = Relu (b) y = Conv (s, c_w)"
    weights = {"a_w": rows((4, 3, 1, 1), 1), "a_b": np.full(4, 0.5, np.float32), "b_w": (5, 4, 3, 3)}
    found = folded(body, {**weights, "c_w": columns((4, 5, 1, 1), 3)})
    assert found.groups() == {"Conv:b": (1, 0)}
    assert "cannot be proved" in found.reasons()["Conv:a"]


def test_a_fold_that_cannot_be_proved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.passes.fold_gates.passes_scale", lambda node, factors: True)
    body = "a = Conv (x, a_w) s = Sigmoid (a) m = Mul (s, g) y = Tanh (m)"
    weights = {"a_w": (4, 3, 1, 1), "g": np.full((1, 4, 1, 1), 0.5, np.float32)}
    with pytest.raises(ProofFailed):
        onnxprune.fold(model_from_text("(float[N,3,8,8] x) => (float[N,4,8,8] y)", body, weights))


def test_a_constant_output_of_the_model_stays_and_is_told() -> None:
    weights = {"a_w": (4, 3, 1, 1), "c_w": rows((4, 4, 1, 1), 2), "c_b": (4,)}
    found = folded("a = Conv (x, a_w) r = Relu (a) y = Conv (r, c_w, c_b)", weights)
    assert found.reasons() == {"Conv:y": "it is an output of the model"}
    assert [one.width for one in found.report.stuck] == [1]


def test_the_given_model_is_not_changed_and_its_kind_comes_back() -> None:
    body = "a = Conv (x, a_w) r = Relu (a) y = Conv (r, c_w)"
    model = model_from_text("(float[N,3,8,8] x) => (float[N,4,8,8] y)", body,
                            {"a_w": rows((4, 3, 1, 1), 1), "c_w": (4, 4, 1, 1)})  # fmt: skip
    before = model.SerializeToString(deterministic=True)
    assert isinstance(onnxprune.fold(model).model, onnx.ModelProto)
    assert isinstance(onnxprune.fold(model.SerializeToString()).model, bytes)
    assert model.SerializeToString(deterministic=True) == before
