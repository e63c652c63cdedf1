"""Constant factors on channels go into weights, wherever they stand; zeros among them take channels along."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from fold_case import CLOSE, Fold, folded, gates, norm_of
from graph_text import model_from_text
from model_counts import constants

PADDED = "<pads = [1, 1, 1, 1]>"
SOME = (1.0, 0.0, 0.5, 0.25, 0.0, 2.0)


def test_gates_behind_an_activation_go_into_the_layer_before_it() -> None:
    body = f"a = Conv {PADDED} (x, a_w, a_b) r = Relu (a) m = Mul (r, g) y = Conv {PADDED} (m, c_w)"
    found = folded(body, {"a_w": (6, 3, 3, 3), "a_b": (6,), "g": gates(*SOME), "c_w": (4, 6, 3, 3)})
    assert found.ops() == ["Conv", "Relu", "Conv"]
    assert found.report.gates[0].into == ("Conv:a",)
    kept = [0, 2, 3, 5]
    scale = np.array(SOME, np.float32)[kept]
    before, after = constants(found.before), constants(found.after)
    np.testing.assert_allclose(after["a_w"], before["a_w"][kept] * scale[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(after["a_b"], before["a_b"][kept] * scale, rtol=1e-6)
    np.testing.assert_array_equal(after["c_w"], before["c_w"][:, kept])


@pytest.mark.parametrize("activation", ["Sigmoid", "HardSwish"])
def test_gates_behind_a_curved_activation_go_into_the_layers_that_read_them(activation: str) -> None:
    body = f"a = Conv (x, a_w) s = {activation} (a) m = Mul (g, s) u = Conv {PADDED} (m, c_w) v = Conv (m, d_w) "
    weights = {"a_w": (6, 3, 1, 1), "g": gates(*SOME), "c_w": (4, 6, 3, 3), "d_w": (4, 6, 1, 1)}
    found = folded(body + "y = Add (u, v)", weights)
    assert "Mul" not in found.ops()
    assert found.report.gates[0].into == ("Conv:u", "Conv:v")
    assert found.shapes()["a_w"] == (4, 3, 1, 1)


def test_gates_in_front_of_a_dense_layer_pass_the_pool_and_flatten() -> None:
    body = (
        "a = Conv (x, a_w) s = Sigmoid (a) m = Mul (s, g) p = GlobalAveragePool (m) f = Flatten (p) y = Gemm (f, d_w)"
    )
    found = folded(body, {"a_w": (6, 3, 1, 1), "g": gates(*SOME), "d_w": (6, 5)}, "N,5")
    assert found.ops() == ["Conv", "Sigmoid", "GlobalAveragePool", "Flatten", "Gemm"]
    assert found.shapes()["d_w"] == (4, 5)


def test_gates_stay_where_their_channels_are_joined_with_themselves_without_them() -> None:
    joined = "m = Mul (t, g) j = Concat <axis = 1> (s, m) y = Conv (j, c_w)"
    body = f"a = Conv (x, a_w) s = Sigmoid (a) t = Sigmoid (s) {joined}"
    found = folded(body, {"a_w": (6, 3, 1, 1), "g": gates(*SOME), "c_w": (4, 12, 1, 1)})
    assert "Mul" in found.ops()
    assert "by another way too" in found.reasons()["Mul:m"]


def test_gates_on_an_input_of_the_model_go_into_its_reader() -> None:
    found = folded("m = Mul (x, g) y = Conv (m, c_w)", {"g": gates(0.5, 0, 2), "c_w": (4, 3, 1, 1)})
    assert found.ops() == ["Conv"]
    np.testing.assert_array_equal(constants(found.after)["c_w"][:, 1], 0)


def test_gates_on_the_output_of_the_model_leave_its_name() -> None:
    found = folded("a = Conv (x, a_w) y = Mul (a, g)", {"a_w": (4, 3, 1, 1), "g": gates(1, 2, 0, 0.5)})
    assert found.ops() == ["Conv"]
    assert [value.name for value in found.after.graph.output] == ["y"]


def test_a_number_for_all_channels_and_a_divisor_are_factors_too() -> None:
    body = "a = Conv (x, a_w, a_b) m = Mul (a, h) s = Sigmoid (m) d = Div (s, g) y = Conv (d, c_w)"
    weights = {"a_w": (3, 3, 1, 1), "a_b": (3,), "h": np.float32(-0.5), "g": gates(2, 4, 0.5), "c_w": (4, 3, 1, 1)}
    found = folded(body, weights)
    assert found.ops() == ["Conv", "Sigmoid", "Conv"]
    np.testing.assert_allclose(constants(found.after)["a_b"], constants(found.before)["a_b"] * -0.5)


def test_what_is_added_on_the_way_is_multiplied_too() -> None:
    body = "t = Reshape (x, s) h = MatMul (t, a_w) b = Add (h, a_b) r = Relu (b) m = Mul (r, g) y = MatMul (m, c_w)"
    weights = {"s": np.array([0, 3, 64]), "a_w": (64, 3), "a_b": (3,), "g": np.array([0.5, 0, 3], np.float32)}
    found = folded(body, {**weights, "c_w": (3, 8)}, "N,3,8")
    assert found.ops() == ["Reshape", "MatMul", "Add", "Relu", "MatMul"]
    np.testing.assert_allclose(constants(found.after)["a_b"], constants(found.before)["a_b"][[0, 2]] * [0.5, 3])


def test_a_normalisation_takes_factors_and_its_zeros_go_on_into_the_layer() -> None:
    body = f"a = Conv {PADDED} (x, a_w) n = BatchNormalization (a, n_gamma, n_beta, n_mean, n_var) r = Relu (n) "
    weights = {"a_w": (6, 3, 3, 3), "g": gates(*SOME), "c_w": (4, 6, 3, 3), **dict(norm_of("n", np.ones(6)))}
    found = folded(body + f"m = Mul (r, g) y = Conv {PADDED} (m, c_w)", weights)
    assert found.ops() == ["Conv", "Relu", "Conv"]
    assert found.shapes()["a_w"] == (4, 3, 3, 3)


def test_gates_of_one_part_of_a_concatenation_leave_the_other_alone() -> None:
    body = "a = Conv (x, a_w) s = Sigmoid (a) m = Mul (s, g) c = Concat <axis = 1> (x, m) y = Conv (c, c_w)"
    found = folded(body, {"a_w": (3, 3, 1, 1), "g": gates(2, 0, 0.5), "c_w": (4, 6, 1, 1)})
    assert "Mul" not in found.ops()
    np.testing.assert_array_equal(constants(found.after)["c_w"][:, :3], constants(found.before)["c_w"][:, :3])
    np.testing.assert_array_equal(constants(found.after)["c_w"][:, 3], 2 * constants(found.before)["c_w"][:, 3])


def test_gates_that_cannot_move_stay_with_the_channels_that_stay() -> None:
    """Zeros take channels all the same, and the factors are cut like any constant."""
    body = "a = Conv (x, a_w) s = Sigmoid (a) m = Mul (s, g) t = Tanh (m) y = Conv (t, c_w)"
    found = folded(body, {"a_w": (6, 3, 1, 1), "g": gates(*SOME), "c_w": (4, 6, 1, 1)})
    assert found.ops() == ["Conv", "Sigmoid", "Mul", "Tanh", "Conv"]
    assert found.shapes()["g"] == (1, 4, 1, 1)
    assert found.reasons()["Mul:m"] == "Sigmoid (Sigmoid:s) stands before it; Tanh (Tanh:t) stands behind it"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Conv (x, a_w) r = Relu (a) m = Mul (r, g) b = Conv (m, c_w) d = Conv (a, c_w) y = Add (b, d)", "shared"),
        ("a = Conv (x, a_w) r = Relu (a) q = Mul (r, k) m = Mul (q, p) t = Sin (m) y = Conv (t, c_w)", "several axes"),
    ],
)
def test_a_gate_that_stays_says_why(body: str, reason: str) -> None:
    rng = np.random.default_rng(0)
    weights = {"a_w": (3, 3, 1, 1), "g": gates(1, 0.5, -2), "c_w": (4, 3, 1, 1), "k": gates(1, -1, 1)}
    used = {name: value for name, value in weights.items() if f"{name})" in body}
    if "p)" in body:
        used["p"] = rng.random((1, 3, 8, 1)).astype(np.float32)
    found = folded(body, used)
    assert any(reason in told for told in found.reasons().values())


def test_a_negative_factor_does_not_pass_a_relu() -> None:
    body = "a = Conv (x, a_w) r = Relu (a) m = Mul (r, g) y = Conv (m, c_w)"
    found = folded(body, {"a_w": (3, 3, 1, 1), "g": gates(1, -1, 0.5), "c_w": (4, 3, 1, 1)})
    assert found.report.gates[0].into == ("Conv:y",)
    np.testing.assert_array_equal(constants(found.after)["a_w"], constants(found.before)["a_w"])


def test_a_mask_chosen_by_where_takes_channels_along() -> None:
    body = "a = Conv (x, a_w) r = Relu (a) m = Where (k, r, o) y = Conv <pads = [1, 1, 1, 1]> (m, c_w)"
    mask = np.array([True, False, True]).reshape(1, 3, 1, 1)
    found = folded(body, {"a_w": (3, 3, 1, 1), "k": mask, "o": np.float32(0), "c_w": (4, 3, 3, 3)})
    assert found.shapes()["a_w"] == (2, 3, 1, 1)


def gated_twins(order: Sequence[str]) -> onnx.ModelProto:
    """Two gates in a row, in either order."""
    body = "a = Conv (x, a_w) r = Relu (a) m = Mul (r, {}) n = Mul (m, {}) p = MaxPool <kernel_shape = [2, 2]> (n) "
    weights = {"a_w": (4, 3, 3, 3), "g": gates(1, 0, 0.5, 1), "h": gates(1, 3, 0.5, 0), "c_w": (4, 4, 1, 1)}
    text = body.format(*order) + "y = Conv (p, c_w)"
    return model_from_text("(float[N,3,8,8] x) => (float[N,4,5,5] y)", text, weights)


@pytest.mark.parametrize("order", [("g", "h"), ("h", "g")])
def test_gates_in_a_row_all_go(order: Sequence[str]) -> None:
    found = Fold(gated_twins(order))
    assert found.difference() < CLOSE
    assert "Mul" not in found.ops()
    assert found.shapes()["a_w"] == (2, 3, 3, 3)
