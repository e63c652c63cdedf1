"""By how much operators that pass channels on scale them: against the numbers that they put out."""

import numpy as np
import pytest
from graph_text import batchnorm, model_from_text
from removal import analysed

from onnxprune.constants import computed_constants
from onnxprune.dependency import Ledger, Seen
from onnxprune.graph import every_node
from onnxprune.op_rules.gains import gain_of

IMAGE = "(float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y)"


def gain_in(signature: str, body: str, weights: dict, op_type: str, opset: int = 17) -> np.ndarray:
    """The gain of the only node of this kind, in an analysis of the whole."""
    model = model_from_text(signature, body, weights, opset)
    analysis = analysed(model).analysis
    node = next(node for node in every_node(analysis.model) if node.op_type == op_type)
    return gain_of(Seen(analysis.model, analysis.trace, (), computed_constants(analysis.model)).op(node, Ledger()))


def test_batchnorm_scales_by_gamma_over_the_deviation() -> None:
    weights = batchnorm("n", 4) | {"n_gamma": np.float32([1, -2, 3, 0]), "n_var": np.float32([1, 4, 9, 1])}
    body = "y = BatchNormalization <epsilon = 0.0> (x, n_gamma, n_beta, n_mean, n_var)"
    found = gain_in(IMAGE, body, weights, "BatchNormalization")
    assert found.shape == (4, 1, 1)
    np.testing.assert_allclose(found.ravel(), [1, 1, 1, 0])


@pytest.mark.parametrize(("body", "expected"), [("y = Mul(c, x)", [2, 3]), ("y = Div(x, c)", [1 / 2, 1 / 3])])
def test_a_constant_factor_counts_without_its_sign(body: str, expected: list[float]) -> None:
    weights = {"c": np.float32([[[2]], [[-3]], [[2]], [[-3]]])}
    np.testing.assert_allclose(gain_in(IMAGE, body, weights, body[4:7]).ravel(), expected * 2)


def test_a_gate_that_is_computed_scales_nothing() -> None:
    assert gain_in(IMAGE, "s = Sigmoid(x) y = Mul(x, s)", {}, "Mul") == 1


def test_a_norm_over_the_input_itself_counts_with_its_gamma() -> None:
    weights = {"gamma": np.float32([1, -2, 3, 4]), "beta": np.zeros(4, np.float32)}
    found = gain_in(IMAGE, "y = InstanceNormalization(x, gamma, beta)", weights, "InstanceNormalization")
    np.testing.assert_array_equal(found.ravel(), [1, 2, 3, 4])
    signature = "(float[n, 5, 4] x) => (float[n, 5, 4] y)"
    found = gain_in(signature, "y = LayerNormalization(x, gamma, beta)", weights, "LayerNormalization")
    np.testing.assert_array_equal(found, [1, 2, 3, 4])


def test_a_sum_counts_every_position_and_a_transposed_convolution_one_in_a_stride() -> None:
    signature = "(float[n, 4, 6, 6] x) => (float[n, 4] y)"
    body = "y = ReduceSum <keepdims = 0> (x, axes)"
    assert gain_in(signature, body, {"axes": np.array([2, 3], np.int64)}, "ReduceSum") == 36
    signature = "(float[n, 4, 6, 6] x) => (float[n, 4, 12, 12] y)"
    body = "y = ConvTranspose <strides = [2, 2], kernel_shape = [2, 2]> (x, w)"
    assert gain_in(signature, body, {"w": (4, 4, 2, 2)}, "ConvTranspose") == 0.25


def test_gemm_scales_by_alpha() -> None:
    signature = "(float[n, 4] x) => (float[n, 3] y)"
    assert gain_in(signature, "y = Gemm <alpha = -0.5> (x, w)", {"w": (4, 3)}, "Gemm") == 0.5
